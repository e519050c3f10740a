"""From desired entries and observed state to actions; failed actions attributed to documents."""

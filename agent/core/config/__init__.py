"""Documents: their revisions, who owns which object, which revision is in force, and what was acknowledged."""

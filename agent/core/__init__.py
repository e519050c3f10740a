"""The pure core: documents in, desired state, plan and verdicts out. No I/O and no clock."""

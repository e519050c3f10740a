"""The pure core: documents in, desired state, plan and the documents' states out. No I/O and no clock."""

"""From documents to the kernel and back: reconciler, resync, retries, acknowledgements."""

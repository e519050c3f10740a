"""The management plane's side of the bus: compiles documents, publishes them and follows their progress."""

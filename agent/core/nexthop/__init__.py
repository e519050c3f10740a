"""Next hops: routes, neighbours and peers."""

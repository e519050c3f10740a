"""The resolved state that all decisions share, and how it is laid out in the maps. Plain data."""

"""The resolved state that all decisions share, and the layout of the maps. Plain data."""

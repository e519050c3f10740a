"""The kinds of object that documents list: one module a kind, all with the interface of `kind.py`."""

"""The packages of the repository's top level under a name of their own, so that none is shadowed.

`attacks`, `benchmark`, `defenses` and `models` here are links to the folders beside this one.
"""

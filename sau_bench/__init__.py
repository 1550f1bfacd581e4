"""The packages of the repository's top level under a name of their own, so that none is shadowed.

`attacks`, `benchmark`, `defenses` and `models` here are links to the folders beside this one, and
so are `configs` and `paper`, the published numbers: what an installed package brings along.
"""

__version__ = "0.1.0"

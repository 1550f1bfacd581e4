"""What the verb `new` writes: one plugin of each kind, which keeps its contract as it is.

`MyPlugin` and "My plugin" stand for the new plugin's names.
"""

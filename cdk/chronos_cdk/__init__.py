"""The standing resources of Chronos EC2 Training: one construct a module, wired by `stack.py`."""

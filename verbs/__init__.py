"""The Invoke tasks, a module a subject; `tasks.py` at the root puts them together."""

"""The state file `{env}/system-state.json`: one table of transitions, one way to write."""

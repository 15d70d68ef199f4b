"""The rules: formats and state machines, sans-IO and pure."""

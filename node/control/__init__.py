"""The control API: what the command line asks of its own node, over a Unix socket of mode 0600 (specs/0017)."""

"""The HTTP APIs that clients expect, on loopback."""

"""The running thing: daemon, network, inference, HTTP, command line."""

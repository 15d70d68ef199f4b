"""The libp2p transport: host, authorised streams."""

"""The client of OCI registries: an untrusted source of bytes, asked over HTTP and checked by hash (specs/0023)."""

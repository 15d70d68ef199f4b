"""What is kept: blobs, refs, the log, the encrypted database. Blocking I/O only."""

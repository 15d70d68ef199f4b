"""Who: keys, did:key, signed notes, and where the secrets live."""

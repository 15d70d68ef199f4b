"""What the node and its model worker say to each other (specs/0015-worker-protocol): messages, caps and bytes."""

"""The words: one file per family of verbs."""

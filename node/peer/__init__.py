"""One trio driver per feature that crosses to another device."""

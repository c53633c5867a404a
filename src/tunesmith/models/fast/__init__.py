"""Same results as transformers, in less time."""

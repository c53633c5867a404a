"""Raw files -> clean, checked, split rows. Nothing here knows a model."""

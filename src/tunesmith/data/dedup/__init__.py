"""Equal, nearly equal, and rows of the same meaning."""

"""Models that serve the data room."""

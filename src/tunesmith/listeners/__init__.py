"""Who hears a run's events: the terminal, TensorBoard."""

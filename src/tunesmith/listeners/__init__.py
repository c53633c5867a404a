"""Listeners to a run's events: the terminal, TensorBoard."""

"""Records become rows of each kind."""

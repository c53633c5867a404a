"""A source of any kind -> records."""

"""Bases as they are: found by name, loaded safely, and read for their vectors."""

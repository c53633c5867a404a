"""The way of all rows: read, check, split, remove near-duplicates, write, describe."""

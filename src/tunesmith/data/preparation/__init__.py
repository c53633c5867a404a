"""The steps that all rows take: read, check, split, remove near-duplicates, write, describe."""

"""Rows -> token batches."""

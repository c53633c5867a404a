"""Shared by every room: errors, files, settings, worker processes, statistics, report blocks."""

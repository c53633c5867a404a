"""What every room may use: errors, files, settings, worker processes, statistics, blocks of a report."""

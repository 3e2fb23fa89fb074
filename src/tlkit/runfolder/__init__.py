"""A run's folder: its files, written and read back by the same code."""

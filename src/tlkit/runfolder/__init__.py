"""The folder of a run: its files, written and read back by the same code."""

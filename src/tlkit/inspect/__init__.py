"""Checks of data before training: contents, duplicates, shortcuts and splits (`tlkit data`)."""

"""Errors, text, files, locks, signals, standard streams, the cache and the start of Keras."""

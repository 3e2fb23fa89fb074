"""Weights as files: where they come from, how they are read, how they fit a model."""

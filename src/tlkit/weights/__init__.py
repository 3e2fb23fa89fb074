"""Weights files: where they come from, how they are read, how they go into a model."""

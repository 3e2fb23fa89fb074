"""A run from an experiment to its folder, and the way back in after a stop."""

"""Experiment files: from TOML to a typed `Experiment`, strictly, with every problem at once."""

"""From a TOML file to an `Experiment`, strictly, with every problem at once."""

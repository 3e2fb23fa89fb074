"""The parts that experiments are made of: the kinds, and one module per kind."""

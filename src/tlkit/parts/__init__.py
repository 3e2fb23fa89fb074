"""The parts an experiment is made of: one module a kind, and `kinds` with what a kind asks."""

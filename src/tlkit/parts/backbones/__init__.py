"""Backbones, one module per library that they come from."""

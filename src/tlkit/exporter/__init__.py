"""Finished runs as model files for programs without tlkit."""

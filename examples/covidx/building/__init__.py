"""Builds the study's two manifests from the public sources; used by `build.py`."""

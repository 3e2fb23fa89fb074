"""From the public sources to the study's two manifests; see `build.py` beside this folder."""

"""How layers are numbered, and how a Keras model's graph is read."""

"""The engine: pixels, model, features, steps. Importing it starts Keras, quietly."""

from tlkit.backend import prepare

prepare()

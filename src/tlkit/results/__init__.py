"""What a run leaves: figures and the files of its folder. Importing it starts Keras, quietly."""

from tlkit.backend import prepare

prepare()

"""From an experiment and the counts of its data to every decision, before Keras is loaded."""

"""Ensembles: the mean of the probabilities of several runs, or of several sweeps' recorded ones."""

"""Sweeps: many runs of one study, each in its own folder, told as one.

Nothing here imports TensorFlow: the runs happen in processes of their own.
"""

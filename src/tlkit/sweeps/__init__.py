"""Sweeps: many runs of one study, summarized together.

Nothing here imports TensorFlow except `worker` and `actors`: runs happen in processes of their own.
"""

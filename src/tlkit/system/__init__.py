"""What every program needs and no learning: errors, files, locks, signals, the start of Keras."""

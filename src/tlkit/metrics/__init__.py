"""How good a classifier is: scores, intervals, calibration. No Keras."""

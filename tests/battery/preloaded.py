"""What processes to kill have imported before they are forked; see `tests/battery/kills.py`."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

import keras  # noqa: F401
import sklearn.linear_model  # noqa: F401
import tensorflow  # noqa: F401

import tlkit.cli
import tlkit.reports.report
import tlkit.sweeps.page
import tlkit.sweeps.sweep  # noqa: F401

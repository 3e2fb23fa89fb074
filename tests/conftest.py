"""What all tests share: one Hypothesis profile, and TensorFlow started as tlkit starts it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

settings.register_profile(
    "tlkit",
    deadline=None,  # the machine is shared; speed is measured in bench/
    derandomize=True,  # the same examples everywhere, so CI's verdict can be repeated
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],  # TensorFlow's first call takes seconds
)
settings.load_profile("tlkit")


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A feature cache of the tests' own, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def write_preset() -> Callable[..., Path]:
    """What writes a small preset of KerasHub's, with random weights; needs the extra `hub`."""

    def write(folder: Path, kind: str = "VGGBackbone", **config: Any) -> Path:
        import keras
        import keras_hub

        config = config or {"stackwise_num_repeats": [1], "stackwise_num_filters": [4]}
        backbone = getattr(keras_hub.models, kind)(**config)
        seeds = keras.random.SeedGenerator(0)
        for variable in backbone.weights:  # what is random or 0 or 1 at first is none of it here
            variable.assign(keras.random.uniform(variable.shape, 0.1, 0.2, seed=seeds))
        backbone.save_to_preset(str(folder))
        converter = getattr(keras_hub.layers, kind.replace("Backbone", "ImageConverter"))
        converter(scale=0.01, offset=[0.1, 0.2, 0.3]).save_to_preset(str(folder))
        return folder

    return write

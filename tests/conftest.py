"""What all tests share: one Hypothesis profile, and TensorFlow started as tlkit starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator

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

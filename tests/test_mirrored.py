"""Training steps that several devices share; two logical processors stand in for two GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tlkit
from tlkit.train.mirrored import devices, require_devices


def test_more_devices_than_there_are_are_refused() -> None:
    require_devices(len(devices()))
    with pytest.raises(
        tlkit.ResourceError, match=r"fit.devices: must be at most \d+, for .* got 99"
    ):
        require_devices(99)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a fresh process, which alone can have two devices, has made."""
    top = tmp_path_factory.mktemp("two")
    here = Path(__file__).parent.parent
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_devices", str(top)],
        env={**os.environ, "PYTHONPATH": path, "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [("whole", 1e-5), ("average", 1e-5), ("upper", 1e-5), ("half", 5e-3), ("tiles", 1e-4)],
)
def test_two_devices_give_what_one_does(made: Any, case: str, tolerance: float) -> None:
    """Also for a last batch of one image, clipped gradients, regularizers and an average."""
    one, two = made[f"{case} 1"], made[f"{case} 2"]
    assert (one["devices"], two["devices"]) == ([1], [2])
    assert two["weights"] == pytest.approx(one["weights"], abs=tolerance)
    assert two["accuracy"] == one["accuracy"]
    for row, other in zip(two["losses"], one["losses"], strict=True):
        assert row == pytest.approx(other, abs=tolerance)


@pytest.mark.slow
def test_training_by_tiles_is_training_but_for_rounding(made: Any) -> None:
    direct, tiles = made["whole 1"]["weights"], made["tiles 1"]["weights"]
    assert tiles != direct
    assert tiles == pytest.approx(direct, abs=1e-3)


@pytest.mark.slow
def test_a_stage_of_frozen_features_stays_on_one_device(made: Any) -> None:
    assert made["head 2"] == made["head 1"]
    assert made["head 2"]["devices"] == [1]


@pytest.mark.slow
def test_each_device_has_the_same_weights(made: Any) -> None:
    assert made["copies"] == {"copies": 2, "equal": True}


@pytest.mark.slow
def test_a_run_on_two_devices_resumes_to_the_same_bytes(made: Any) -> None:
    assert made["resumed"] == []


@pytest.mark.slow
def test_a_third_device_is_refused_before_there_is_a_folder(made: Any) -> None:
    assert made["refused"].startswith("fit.devices: must be at most 2, for TensorFlow shows ")

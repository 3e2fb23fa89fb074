"""A run's weights without those that a published file has, for pickles."""

from __future__ import annotations

from pathlib import Path

from tlkit.model.graph import named_weights
from tlkit.model.layers import HEAD
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import METRICS, PLAN, WEIGHTS, RunFolder
from tlkit.runfolder.inputs import PlanRecord
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import MetricsRecord
from tlkit.system.errors import WeightsError
from tlkit.weights.files import SOURCES

PUBLISHED = set(SOURCES) - {"none"}


def trained_only(folder: Path) -> bytes:
    """Return a run's weights without the layers of the backbone that no stage has trained.

    They are kept if they do not come from a published file.
    """
    from safetensors.numpy import load, save

    content = (folder / WEIGHTS).read_bytes()
    plan = read_record(RunFolder(folder), PLAN, PlanRecord.from_json)
    if _used(folder).get("source") not in PUBLISHED:
        return content
    own = {
        number
        for number, layer in enumerate(plan.layers, start=1)
        if layer.block == HEAD or any(stage.rates[number - 1] for stage in plan.stages)
    }
    return save({name: array for name, array in load(content).items() if _number(name) in own})


def restore_frozen(folder: Path) -> None:
    """Complete the weights that `trained_only` made smaller, from the published file."""
    import numpy as np
    from safetensors.numpy import load

    from tlkit.weights.tensors import write_arrays

    plan = read_record(RunFolder(folder), PLAN, PlanRecord.from_json)
    arrays = dict(load((folder / WEIGHTS).read_bytes()))
    held = {_number(name) for name in arrays}
    missing = {
        number: layer.name
        for number, layer in enumerate(plan.layers, start=1)
        if number not in held and layer.params + layer.other_params
    }
    if not missing:
        return
    used = _used(folder)
    backbone = read_experiment(RunFolder(folder)).backbone.with_used_weights(used)
    model = backbone.build()
    loaded = backbone.load_weights(model)
    if loaded.get("sha256") != used.get("sha256"):
        raise WeightsError(
            f"backbone.weights: {used.get('source')} is another file here than the one that the "
            f"model was trained with, got SHA-256 {loaded.get('sha256', '')[:12]}, "
            f"expected {used.get('sha256', '')[:12]}"
        )
    for number, name in missing.items():
        for variable_name, variable in named_weights(model.get_layer(name)):
            arrays[f"{number:03d}.{name}/{variable_name}"] = np.asarray(variable.value)
    write_arrays(folder / WEIGHTS, arrays)


def _used(folder: Path) -> dict[str, str]:
    return dict(read_record(RunFolder(folder), METRICS, MetricsRecord.from_json).weights)


def _number(name: str) -> int:
    return int(name.partition(".")[0])

"""What each backbone costs: parameters, megabytes, and milliseconds per image at its own size.

    python bench/backbones.py                 all of them, one process each: half an hour
    python bench/backbones.py mobilenet vgg16

The arrays are random: they cost as much as trained ones. Pixels go through preprocessing and all
layers in batches, as in a run; reading and resizing files is not counted. The time is that of the
fastest batch, beside processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

SECONDS = 8.0  # at least five batches, and more until this has passed
SKIPPED = {"joined", "keras_hub"}  # no network of their own


def main() -> None:
    """Measure the backbones that are named, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    if len(names) == 1:
        print(json.dumps(measure(names[0])), flush=True)
        return
    for name in names or all_names():
        subprocess.run([sys.executable, __file__, name], check=True)


def all_names() -> list[str]:
    """Return the names of the backbones that are networks of their own."""
    import tlkit

    return [name for name in tlkit.registries.backbones.names() if name not in SKIPPED]


def measure(name: str) -> dict[str, Any]:
    """Build a backbone with random weights, and time full batches."""
    import numpy as np

    import tlkit
    from tlkit.parts.augmentations import NoAugmentation
    from tlkit.train.features import Extractor
    from tlkit.train.plan import prefix_batch

    part: Any = tlkit.registries.backbones.get(name)
    backbone = part(weights="none")
    network = backbone.build()
    size = backbone.image_size
    layers = tlkit.layer_table(network)
    batch = prefix_batch(layers, len(layers), size)
    extractor = Extractor(network, backbone, NoAugmentation(), batch, winograd=True)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    extractor(pixels)  # traces
    wall, processor, began = [], [], time.perf_counter()
    while len(wall) < 5 or time.perf_counter() - began < SECONDS:
        times = time.perf_counter(), time.process_time()
        extractor(pixels)
        wall.append(time.perf_counter() - times[0])
        processor.append(time.process_time() - times[1])
    parameters = network.count_params()
    return {
        "name": name, "px": size, "parameters": parameters, "mb": round(parameters * 4 / 1e6, 1),
        "ms": round(1000 * min(wall) / batch, 1),
        "processor_ms": round(1000 * min(processor) / batch, 1),
        "batch": batch, "batches": len(wall),
    }  # fmt: skip


if __name__ == "__main__":
    main()

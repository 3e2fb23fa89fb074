"""Fine-tune on a folder of your own, FOLDER/train/CLASS/… and FOLDER/val/CLASS/….

python own_folder.py FOLDER [KEY=VALUE...]
"""

import sys

import tlkit

run = tlkit.run(
    {
        "data": {"name": "folder", "path": sys.argv[1]},
        "backbone": {"name": "vgg16", "weights": ["imagenet", "bsds500"]},
        "head": {"name": "pooled"},
        "freeze": {"name": "layer_names", "train": ["block5", "head"]},
        "class_weights": {"name": "balanced"},
        "optimizer": {"name": "adam", "learning_rate": 1e-4},
    },
    overrides=sys.argv[2:],
    callback=tlkit.Terminal(),  # shows how it goes
)
print(f"{run.result.accuracy:.0%} of {run.result.images} images; see {run.folder}")

"""The text of `predict.py` next to an exported model: the run's rules, from a file to a class."""

from __future__ import annotations

from importlib.metadata import version

from tlkit.data.images import to_pixels
from tlkit.metrics.calibration import decide
from tlkit.system.source import standalone
from tlkit.system.text import printable

FACTS, SCRIPT = "model.json", "predict.py"
HEAD = '''\
"""Classify image files with the model in this folder: python predict.py IMAGE...

Prints each file with its class and the probabilities. Files are read, resized and decided by the
same rules as in tlkit {version}, whose source is below. Reading DICOM needs pydicom.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
{imports}

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
CLASSES = FACTS["classes"]
'''
MAIN = '''\
def read_pixels(path):
    """Return an image file as (size, size, 3) uint8, RGB, at the model's size."""
    content = Path(path).read_bytes()
    return to_pixels(content, FACTS["image_size"], FACTS["resize"], FACTS["mask_center"])


def classify(path):
    """Return the class and the probabilities of an image file, as the run predicts them."""
    rows = probabilities(read_pixels(path)[None].astype(np.float32))
    return predicted(rows)[0], rows[0]


def predicted(rows):
    """Return the class of each row of probabilities."""
    rule = FACTS["threshold"]
    favored = (CLASSES.index(rule["class"]), rule["p"]) if rule else (None, 0.0)
    return [CLASSES[number] for number in decide(rows, *favored)]


def main():
    """Classify the files named on the command line; return 1 if one could not be read."""
    failed = 0
    for path in sys.argv[1:]:
        try:
            name, row = classify(path)
            print(path, name, *(format(p, ".6f") for p in row))
        except (OSError, ImageError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"{printable(path)}: {reason}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
'''


def predict_py(probabilities: str) -> str:
    """Return the text of `predict.py`."""
    imports, rules = standalone(to_pixels, decide, printable)
    rules = rules.replace("'tlkit[dicom]'", "pydicom").replace("'tlkit[heic]'", "pillow-heif")
    head = HEAD.format(version=version("tlkit"), imports=imports)
    return "\n\n".join([head, probabilities.rstrip(), "", rules, "", MAIN])

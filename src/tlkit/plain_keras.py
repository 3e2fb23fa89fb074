"""The pieces for people who write their own Keras code: any model, any labels, no TOML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from tlkit.graph import layer_table as table_of
from tlkit.layers import LayerRange, LayerTable
from tlkit.parts.kinds import Backbone, BatchNorm, ClassWeights, Freeze, Head, registries

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from tlkit.train.model import Frozen

L = TypeVar("L", bound=Hashable)
Selector = str | int | LayerRange


def build_model(
    backbone: Backbone | str = "vgg16",
    head: Head | str = "flatten_dense",
    *,
    classes: int,
    seed: int = 0,
) -> keras.Model:
    """Return a flat functional model: a backbone with its weights loaded, and a fresh head.

    Args:
        backbone: A backbone, or the name of one with its default settings.
        head: A head, or the name of one.
        classes: How many classes there are.
        seed: What the random weights depend on.

    Returns:
        A model from `(batch, image_size, image_size, 3)`, already preprocessed (see
        `Backbone.prepare`), to probabilities `(batch, classes)`.

    Raises:
        ValueError: If there are fewer than two classes.
        WeightsError: If the backbone's weights are not available or do not fit.
    """
    from tlkit.train.model import assemble

    if classes < 2:
        raise ValueError(f"classes: must be at least 2, got {classes}")
    if isinstance(backbone, str):
        backbone = registries.backbones.get(backbone)()
    if isinstance(head, str):
        head = registries.heads.get(head)()
    return assemble(backbone, head, classes, seed)[0]


def layer_table(model: keras.Model) -> LayerTable:
    """Return the numbered layers of any Keras model; nested models are listed layer by layer.

    The input is layer 0 and not a row. A nested model's layers are named `MODEL/LAYER`; the block
    of a layer is its nested model, or else the part of its name before the first underscore.
    """
    return table_of(model)


def freeze(
    model: keras.Model,
    *,
    train: Selector | Sequence[Selector] | Mapping[str, float] | Freeze,
    batch_norm: BatchNorm = "inference",
) -> Frozen:
    """Train the chosen layers of any Keras model and freeze all others; compile it afterwards.

    Args:
        model: Any model; the layers of nested models are numbered as if it were flat.
        train: What is trained: a range (`"19-22"`), a layer's number or name, a glob or block name,
            a list of these, a mapping from these to learning-rate multipliers (later ones
            prevail), or a freeze policy, of which the first stage counts.
        batch_norm: `inference` freezes every BatchNorm layer whatever `train` says, `head` all but
            those of block `head`, `train` none; a policy's own `batch_norm` counts instead.

    Returns:
        The layer table with rates; print it. Its `scale` gives an optimizer that obeys the rates.

    Raises:
        LayerError: If a range or name matches nothing.
        TypeError: If `model` or `train` is something else.
        ValueError: If nothing would be trained, or the model is not built yet.
    """
    import keras

    from tlkit.train import model as models

    if not isinstance(model, keras.Model):
        raise TypeError(f"model: must be a Keras model, got {model!r}")
    if not _has_inputs(model):
        raise ValueError("model: must be functional or Sequential and begin with keras.Input")
    if batch_norm not in get_args(BatchNorm):
        known = ", ".join(get_args(BatchNorm))
        raise ValueError(f"batch_norm: must be one of {known}, got {batch_norm!r}")
    return models.freeze(model, train if isinstance(train, Freeze) else _rates(train), batch_norm)


def _has_inputs(model: keras.Model) -> bool:
    """Tell whether a model is a graph; of others Keras has no inputs, or raises."""
    try:
        return bool(model.inputs)
    except (AttributeError, ValueError):
        return False


def _rates(train: Any) -> dict[str, float]:
    """Return what `freeze` was told to train as selectors with their learning-rate multipliers."""
    if isinstance(train, Selector):
        train = [train]
    if isinstance(train, Sequence):
        train = dict.fromkeys(train, 1.0)
    wrong = not isinstance(train, Mapping) or any(
        isinstance(selector, bool) or not isinstance(selector, Selector) for selector in train
    )
    if wrong:
        raise TypeError(
            "train: must be a range, a layer's number or name, a list of these, a mapping from "
            f"these to rates, or a freeze policy, got {train!r}"
        )
    for selector, rate in train.items():
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"train: the rate of {selector!r} must be a number, got {rate!r}")
    return {str(selector): float(rate) for selector, rate in train.items()}


def class_weights(
    labels: Mapping[L, int] | Iterable[L], weighting: ClassWeights | str = "balanced"
) -> dict[L, float]:
    """Return the weight of every class, by its name or number.

    Args:
        labels: How many images each class has, or the training images' labels themselves: names or
            numbers, one an image, in a list, an array or a tensor.
        weighting: A class weighting, or the name of one.

    >>> class_weights({"normal": 50, "pneumonia": 100})
    {'normal': 1.5, 'pneumonia': 0.75}
    >>> class_weights([0, 0, 0, 1])
    {0: 0.6666666666666666, 1: 2.0}

    Raises:
        ValueError: If there are no labels, a class has no images, or the weighting does not know
            a class.
    """
    if isinstance(weighting, str):
        weighting = registries.class_weights.get(weighting)()
    counts: Mapping[Any, int] = labels if isinstance(labels, Mapping) else _counted(labels)
    if not counts:
        raise ValueError("labels: there are none")
    return weighting.planned(counts)


def _counted(labels: Iterable[L]) -> dict[L, int]:
    counts = Counter(_one_each(labels))
    return {label: counts[label] for label in sorted(counts)}


def _one_each(labels: Any) -> list[Any]:
    """Return labels as Python values, one an image.

    Raises:
        ValueError: If they are something else, such as one-hot.
    """
    if hasattr(labels, "__array__"):
        import numpy as np

        found = np.asarray(labels)
        if found.ndim == 0 or found.size != len(found):
            raise ValueError(
                f"labels: must be one an image, got shape {found.shape}; "
                "of one-hot labels take labels.argmax(axis=1)"
            )
        return found.ravel().tolist()
    return [label.item() if hasattr(label, "item") else label for label in labels]


def sample_weights(labels: Iterable[L], weights: Mapping[L, float]) -> npt.NDArray[np.float32]:
    """Return the weight of each image, for `fit(..., sample_weight=...)`.

    Keras's own `class_weight` gives classes it does not find the weight 1 without a word, so tlkit
    never uses it.

    Args:
        labels: The class of each image, as in `weights`.
        weights: What `class_weights` returned.

    Returns:
        `(images,)` float32.

    Raises:
        ValueError: If a label has no weight.
    """
    import numpy as np

    found = _one_each(labels)
    missing = sorted({str(label) for label in found if label not in weights})
    if missing:
        raise ValueError(f"labels: {missing[0]!r} has no weight, known: {list(weights)}")
    return np.array([weights[label] for label in found], np.float32)

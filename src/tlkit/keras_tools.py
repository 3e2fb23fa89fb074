"""tlkit's pieces for people's own Keras code: freezing, models, class weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from tlkit.data.splits import (
    refuse_missing,
)
from tlkit.model import graph
from tlkit.model.layers import LayerRange, LayerTable
from tlkit.parts.kinds import (
    Backbone,
    BatchNorm,
    ClassWeights,
    FreezePolicy,
    Head,
    registries,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from tlkit.train.assemble import Frozen

L = TypeVar("L", bound=Hashable)
Selector = str | int | LayerRange


def freeze(
    model: keras.Model,
    *,
    train: Selector | Sequence[Selector] | Mapping[str, float] | FreezePolicy,
    batch_norm: BatchNorm = "inference",
    layers: LayerTable | None = None,
) -> Frozen:
    """Train the selected layers of any Keras model and freeze all others; compile it afterwards.

    Args:
        model: Any model; the layers of nested models are numbered as if it were flat.
        train: The layers to train: a range (`"19-22"`), a layer's number or name, a glob or block
            name, a list of these, a mapping from these to learning-rate multipliers (later entries
            win), or a freeze policy, of which the first stage applies.
        batch_norm: `inference` freezes every BatchNorm layer whatever `train` says, `head` all but
            those in block `head`, `train` none. A policy has its own `batch_norm`.
        layers: The model's layers, if not in the blocks of `layer_table`; parts have blocks of
            their own, `head.layers_on(backbone.layers(), classes)`.

    Returns:
        The layer table with the rates, ready to print. Its `optimizer` method returns an optimizer
        that applies the rates.

    Raises:
        LayerError: If a range or name matches nothing.
        TypeError: If `model` or `train` has the wrong type.
        ValueError: If nothing would be trained, the model is not built yet, or `layers` are not
            those of the model.
    """
    import keras

    from tlkit.train import assemble

    if not isinstance(model, keras.Model):
        raise TypeError(f"model: must be a Keras model, got {model!r}")
    if not _has_inputs(model):
        raise ValueError("model: must be functional or Sequential and begin with keras.Input")
    if batch_norm not in get_args(BatchNorm):
        known = ", ".join(get_args(BatchNorm))
        raise ValueError(f"batch_norm: must be one of {known}, got {batch_norm!r}")
    policy = train if isinstance(train, FreezePolicy) else _multipliers(train)
    table = layer_table(model)
    if layers is not None and [x.name for _, x in layers] != [x.name for _, x in table]:
        raise ValueError(f"layers: must be the model's, which are\n{table}\ngot\n{layers}")
    return assemble.freeze(model, layers or table, policy, batch_norm)


def _has_inputs(model: keras.Model) -> bool:
    """Tell whether a model is a graph; a subclassed model has no inputs, or raises."""
    try:
        return bool(model.inputs)
    except (AttributeError, ValueError):
        return False


def _multipliers(train: Any) -> dict[str, float]:
    """Return the learning-rate multiplier of each selector in `freeze`'s argument `train`."""
    if isinstance(train, Selector):
        train = [train]
    if isinstance(train, Sequence):
        train = dict.fromkeys(train, 1.0)
    if not isinstance(train, Mapping) or not all(
        isinstance(selector, Selector) and not isinstance(selector, bool) for selector in train
    ):
        raise TypeError(
            "train: must be a range, a layer's number or name, a list of these, a mapping from "
            f"these to rates, or a freeze policy, got {train!r}"
        )
    for selector, rate in train.items():
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"train: the rate of {selector!r} must be a number, got {rate!r}")
    return {str(selector): float(rate) for selector, rate in train.items()}


def layer_table(model: keras.Model) -> LayerTable:
    """Return the numbered layers of any Keras model; nested models are listed layer by layer.

    The input is layer 0 and has no row. A nested model's layers are named `MODEL/LAYER`. A layer's
    block is its nested model, or `head` if it comes after the last feature map, or else the part of
    its name before the first underscore.
    """
    return graph.layer_table(model).with_head()


def build_model(
    backbone: Backbone | str = "vgg16",
    head: Head | str = "flatten_dense",
    *,
    classes: int,
    seed: int = 0,
) -> keras.Model:
    """Return a flat functional model: a backbone with its weights loaded, and a new head.

    Args:
        backbone: A backbone, or the name of one with its default settings.
        head: A head, or the name of one.
        classes: The number of classes.
        seed: The seed of the random weights.

    Returns:
        A model from `(batch, image_size, image_size, 3)`, preprocessed by
        `Backbone.preprocess_images`, to probabilities `(batch, classes)`.

    Raises:
        ValueError: If there are fewer than two classes.
        WeightsError: If the backbone's weights are not available or do not fit.
    """
    from tlkit.train.assemble import assemble

    if classes < 2:
        raise ValueError(f"classes: must be at least 2, got {classes}")
    if isinstance(backbone, str):
        backbone = registries.backbones.get(backbone)()
    if isinstance(head, str):
        head = registries.heads.get(head)()
    return assemble(backbone, head, classes, seed)[0]


def class_weights(
    labels: Mapping[L, int] | Iterable[L], weighting: ClassWeights | str = "balanced"
) -> dict[L, float]:
    """Return the weight of each class, by its name or number.

    Args:
        labels: The number of images in each class, or the labels of the training images: a name or
            number per image, in a list, an array or a tensor.
        weighting: A class weighting, or the name of one.

    >>> class_weights({"cat": 50, "dog": 100})
    {'cat': 1.5, 'dog': 0.75}
    >>> class_weights([0, 0, 0, 1])
    {0: 0.6666666666666666, 1: 2.0}

    Raises:
        ValueError: If there are no labels, one is missing, a class has no images, or the weighting
            does not know a class.
    """
    if isinstance(weighting, str):
        weighting = registries.class_weights.get(weighting)()
    if getattr(labels, "name", None) in {"count", "proportion"}:  # as pandas names its result
        raise ValueError("labels: is a table of counts; use labels.value_counts().to_dict()")
    counts: Mapping[Any, int] = labels if isinstance(labels, Mapping) else _counts(labels)
    refuse_missing(counts, "labels")
    if not counts:
        raise ValueError("labels: there are none")
    return weighting.planned(counts)


def sample_weights(labels: Iterable[L], weights: Mapping[L, float]) -> npt.NDArray[np.float32]:
    """Return the weight of each image, for `fit(..., sample_weight=...)`.

    Keras's own `class_weight` silently gives the weight 1 to classes that it does not list.

    Args:
        labels: The class of each image, as in `weights`.
        weights: The result of `class_weights`.

    Returns:
        `(images,)` float32.

    Raises:
        ValueError: If a label is missing or has no weight.
    """
    import numpy as np

    classes = _label_list(labels)
    missing = sorted({str(label) for label in classes if label not in weights})
    if missing:
        raise ValueError(f"labels: {missing[0]!r} has no weight, known: {list(weights)}")
    return np.array([weights[label] for label in classes], np.float32)


def _counts(labels: Iterable[L]) -> dict[L, int]:
    counts = Counter(_label_list(labels))
    kinds = {isinstance(label, Real) for label in counts}
    if len(kinds) > 1:
        raise ValueError(f"labels: must be all names or all numbers, got {[*counts][:5]!r}")
    return {label: counts[label] for label in sorted(counts)}


def _label_list(labels: Any) -> list[Any]:
    """Return labels as Python values, one per image."""
    values = _as_list(labels)
    refuse_missing(values, "labels")
    return values


def _as_list(labels: Any) -> list[Any]:
    if hasattr(labels, "__array__"):
        import numpy as np

        array = np.asarray(labels)
        if array.ndim == 0 or array.size != len(array):
            raise ValueError(
                f"labels: must be one per image, got shape {array.shape}; "
                "of one-hot labels take labels.argmax(axis=1)"
            )
        return array.ravel().tolist()
    return [label.item() if hasattr(label, "item") else label for label in labels]

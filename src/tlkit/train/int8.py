"""Frozen layers in 8-bit integers (int8), as TensorFlow Lite computes them.

Each channel of a kernel gets a scale of its own; each layer's output gets one, from its least and
greatest value for two photographs that come with scikit-learn. So the features of an image depend
on the weights, the layers and the image size, never on the images of a run. Sums of integers have
no rounding: neither the batch nor the number of threads changes a feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tlkit.model.graph import leaves
from tlkit.parts.kinds import Backbone
from tlkit.parts.plugins import part_name
from tlkit.system.errors import PartError
from tlkit.system.keras import keras, quiet_stderr, tf, threads
from tlkit.train.lean import lean

LAYERS = keras.layers
# Last layers that only rearrange or average stay outside: their 8 bits would be fewer than those of
# what they get, and where several outputs are packed into one, the smallest would be lost.
OUTSIDE = {
    LAYERS.Concatenate, LAYERS.Flatten, LAYERS.GlobalAveragePooling2D, LAYERS.GlobalMaxPooling2D,
}  # fmt: skip

# Activations that are known to convert; with others, or layers of other packages, it is tried.
ACTIVATIONS = {
    keras.activations.linear, keras.activations.relu, keras.activations.sigmoid,
    keras.activations.silu,
}  # fmt: skip


def check_int8(prefix: keras.Model, backbone: Backbone) -> None:
    """Raise `PartError` if layers cannot be computed in int8; tlkit's networks need no trial."""
    for _, layer in leaves(prefix):
        own = type(layer).__module__.startswith(("keras.", "tlkit."))
        if not own or getattr(layer, "activation", keras.activations.linear) not in ACTIVATIONS:
            Quantized(lean(prefix, False), backbone, 1).convert()
            return


class Quantized:
    """A model for inference whose layers compute in int8; its input and output are float32.

    It is made when it is first called, with the weights of that time.

    Args:
        model: The model.
        backbone: Prepares the photographs.
        batch: The number of images per call.
    """

    def __init__(self, model: keras.Model, backbone: Backbone, batch: int) -> None:
        self.backbone, self.batch = backbone, batch
        self.networks = _networks(model.input, _edges(model.output))
        self.edges = [edge for network in self.networks for edge in network.outputs]
        whole = self.edges[0] is model.output
        self.outside = None if whole else keras.Model(self.edges, model.output)
        self._interpreters: list[tuple[Any, list[int]]] = []

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Return what the model returns for `batch` images; for use in a graph."""
        if not self._interpreters:
            # In a thread that traces nothing: elsewhere TensorFlow cannot save the model, and
            # converts it in twice the time.
            with ThreadPoolExecutor(1) as pool:
                self._interpreters = [*map(_interpreter, pool.submit(self.convert).result())]
        maps = tf.numpy_function(self._outputs, [images], [tf.float32] * len(self.edges))
        shapes = [(self.batch, *edge.shape[1:]) for edge in self.edges]
        maps = [tf.ensure_shape(x, shape) for x, shape in zip(maps, shapes, strict=True)]
        return self.outside(maps) if self.outside else maps[0]

    def _outputs(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        maps = []
        for interpreter, outputs in self._interpreters:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
            interpreter.invoke()
            maps += [interpreter.get_tensor(index) for index in outputs]
        return maps

    def convert(self) -> list[bytes]:
        """Return the inner layers as files of TensorFlow Lite; one by one, for the memory."""
        return [*map(self._converted, self.networks)]

    def _converted(self, network: keras.Model) -> bytes:
        weights = [  # tensors, so that weights can be folded while tracing
            [tf.constant(variable.numpy()) for variable in variables]
            for variables in (network.trainable_variables, network.non_trainable_variables)
        ]

        def forward(images: tf.Tensor) -> list[tf.Tensor]:
            outputs, _ = network.stateless_call(*weights, images, training=False)
            return outputs  # type: ignore[no-any-return]  # no types

        signature = [tf.TensorSpec((self.batch, *network.input.shape[1:]), tf.float32)]
        try:
            with quiet_stderr(), warnings.catch_warnings(action="ignore"):
                traced = tf.function(forward, input_signature=signature, autograph=False)
                converter = tf.lite.TFLiteConverter.from_concrete_functions(
                    [traced.get_concrete_function()], tf.Module()
                )
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = self._batches
                return converter.convert()  # type: ignore[no-any-return]  # no types
        except Exception as error:
            lines = str(error).splitlines()
            what = f"its frozen layers cannot be computed in int8: {lines[0] if lines else error!r}"
            raise PartError(
                f'{part_name(self.backbone)}: {what}; set fit.frozen_dtype = "float32"'
            ) from error

    def _batches(self) -> Iterator[list[npt.NDArray[np.float32]]]:
        images = photographs(self.backbone.image_size)
        prepared = self.backbone.preprocess_images(tf.constant(images)).numpy()
        for start in range(0, len(prepared), self.batch):
            some = prepared[start : start + self.batch]
            yield [np.resize(some, (self.batch, *some.shape[1:]))]


def _interpreter(content: bytes) -> tuple[Any, list[int]]:
    """Return what computes a file, and where its outputs are, in their order."""
    count = threads()
    with quiet_stderr(), warnings.catch_warnings(action="ignore"):
        interpreter = tf.lite.Interpreter(
            model_content=content, num_threads=count["intra_op"] or count["processors"]
        )
        interpreter.allocate_tensors()
        named = interpreter.get_signature_runner().get_output_details()
        return interpreter, [named[f"output_{number}"]["index"] for number in range(len(named))]


def photographs(size: int) -> npt.NDArray[np.float32]:
    """Return scikit-learn's two photographs and parts of them, `(8, size, size, 3)`."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = []
    for photograph in map(Image.fromarray, load_sample_images().images):
        width, height = photograph.size
        side = height // 2
        corners = (0, 0), (width - side, height - side), ((width - side) // 2, side // 2)
        boxes = [(0, 0, width, height), *((x, y, x + side, y + side) for x, y in corners)]
        for box in boxes:
            small = photograph.resize((size, size), Image.Resampling.BICUBIC, box)
            pictures.append(np.asarray(small, np.float32))
    return np.stack(pictures)


def _edges(output: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return the last outputs that int8 gives, each once."""
    layer, node, _ = output._keras_history
    if type(layer) not in OUTSIDE:
        return [output]
    below = [edge for x in layer._inbound_nodes[node].input_tensors for edge in _edges(x)]
    return list({id(edge): edge for edge in below}.values())


def _networks(images: keras.KerasTensor, edges: Sequence[keras.KerasTensor]) -> list[keras.Model]:
    """Return a model per network: edges that have layers in common stay together."""
    networks: list[keras.Model] = []
    for edge in edges:
        network = keras.Model(images, [edge])
        inner = {id(layer) for layer in network.layers[1:]}
        for other in [x for x in networks if inner & {id(layer) for layer in x.layers}]:
            networks.remove(other)
            network = keras.Model(images, [*other.outputs, *network.outputs])
        networks.append(network)
    return networks

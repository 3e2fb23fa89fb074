"""Backbones from `keras.applications`: one table, one class, one part per model.

Numbers and checksums are those of Keras 3.15.1 (keras/src/applications). A model that contains its
own preprocessing is built without it; `native` does the same before the first layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import field, frozen

from tlkit.model.graph import (
    cached_table,
    flattened,
    layer_table,
    learnable_variables,
    named_weights,
    renumber_names,
)
from tlkit.model.layers import LayerTable
from tlkit.parts.backbones.preprocessing import MODES
from tlkit.parts.kinds import Backbone, part, typed_init
from tlkit.parts.validators import at_least
from tlkit.system.keras import start_keras
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

HOST = "https://storage.googleapis.com/tensorflow/keras-applications/"
EFFICIENTNET_HOST = "https://storage.googleapis.com/keras-applications/"
NOTOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"  # the end of most file names
PREPROCESSING = ("rescaling", "normalization")  # layers that change pixels and never learn


@frozen
class Model:
    """One model of a family.

    Attributes:
        name: The part's name.
        function: The function in `keras.applications`.
        params: The number of parameters without its classifier.
        image_px: The image size it was trained with.
        checksum: MD5 or SHA-256 of its ImageNet weights; empty if Keras publishes neither.
    """

    name: str
    function: str
    params: int
    image_px: int
    checksum: str


@frozen(kw_only=True)
class Family:
    """The settings that the models of a family share.

    Attributes:
        mode: The preprocessing that goes with the published weights; see `MODES`.
        file: The path of the weights below `host`.
        host: The beginning of their address.
        block: A pattern whose first group in a layer's name is its block.
        prefix: The beginning of block names, before the group.
        closes: Whether layers whose names do not match belong to the next block, not the previous.
        preprocesses: Whether the models contain their preprocessing, which is left out.
        min_px: The smallest image size.
        models: The models.
    """

    mode: Literal["caffe", "tf", "torch", "half"]
    file: str
    host: str = HOST
    block: str
    prefix: str = ""
    closes: bool = False
    preprocesses: bool = False
    min_px: int = 32
    models: tuple[Model, ...]

    def remote(self, model: Model) -> weights.RemoteFile:
        """Return the published file of a model's ImageNet weights."""
        names = {"joined": model.name.replace("_", ""), "last": model.name.rpartition("_")[2]}
        url = self.host + self.file.format(name=model.name, notop=NOTOP, **names)
        # NASNet's files have another name in Keras's folder.
        name = model.name + "_no_top.h5" if model.name.startswith("nasnet") else ""
        return weights.RemoteFile(url, model.checksum, name)


# One line per model.
# fmt: off
FAMILIES = (
    Family(mode="caffe", file="resnet/{joined}{notop}",
           block=r"^(conv\d)_", models=(
        Model("resnet50", "ResNet50", 23_587_712, 224, "4d473c1dd8becc155b73f8504c6f6626"),
        Model("resnet101", "ResNet101", 42_658_176, 224, "88cf7a10940856eca736dc7b7e228a21"),
        Model("resnet152", "ResNet152", 58_370_944, 224, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    )),
    Family(mode="tf", file="resnet/{joined}{notop}",
           block=r"^(conv\d)_", models=(
        Model("resnet50_v2", "ResNet50V2", 23_564_800, 224, "fac2f116257151a9d068a22e544a4917"),
        Model("resnet101_v2", "ResNet101V2", 42_626_560, 224, "c0ed64b8031c3730f411d2eb4eea35b5"),
        Model("resnet152_v2", "ResNet152V2", 58_331_648, 224, "ed17cf2e0169df9d443503ef94b23b33"),
    )),
    Family(mode="tf", file="inception_v3/{name}{notop}",
           block=r"^(mixed\d+)$", closes=True, min_px=75, models=(
        Model("inception_v3", "InceptionV3", 21_802_784, 299, "bcbd6486424b2319ff4ef7d526e38f63"),
    )),
    Family(mode="tf", file="inception_resnet_v2/{name}{notop}",
           block=r"^(mixed_\d\w|block\d+_\d+|conv_7b)", closes=True, min_px=75, models=(
        Model("inception_resnet_v2", "InceptionResNetV2", 54_336_736, 299,
              "d19885ff4a710c122648d3b5c3b684e4"),
    )),
    Family(mode="tf", file="xception/{name}{notop}",
           block=r"^(block\d+)_", min_px=71, models=(
        Model("xception", "Xception", 20_861_480, 299, "b0042744bf5b25fce3cb969f33bebb97"),
    )),
    Family(mode="torch", file="densenet/{name}{notop}",
           block=r"^(conv\d)_", models=(
        Model("densenet121", "DenseNet121", 7_037_504, 224, "30ee3e1110167f948a6b9946edeeb738"),
        Model("densenet169", "DenseNet169", 12_642_880, 224, "b8c4d4c20dd625c148057b9ff1c1176b"),
        Model("densenet201", "DenseNet201", 18_321_984, 224, "c13680b51ded0fb44dff2d8f86ac8bb1"),
    )),
    Family(mode="tf", file="mobilenet/mobilenet_1_0_224_tf_no_top.h5",
           block=r"^conv_(?:dw|pw|pad)_(\d+)", prefix="block_", models=(
        Model("mobilenet", "MobileNet", 3_228_864, 224, ""),
    )),
    Family(mode="tf", file="mobilenet_v2/"
           "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
           block=r"^(Conv1|expanded_conv|block_\d+|Conv_1)(?=_|$)", models=(
        Model("mobilenet_v2", "MobileNetV2", 2_257_984, 224, ""),
    )),
    Family(mode="tf", file="mobilenet_v3/weights_{name}_224_1.0_float_no_top_v2.h5",
           block=r"^(expanded_conv(?:_\d+)?|conv_1|conv)(?=_|$)", preprocesses=True, models=(
        Model("mobilenet_v3_small", "MobileNetV3Small", 939_120, 224,
              "d3e8ec802a04aa4fc771ee12a9a9b836"),
        Model("mobilenet_v3_large", "MobileNetV3Large", 2_996_352, 224,
              "07fb09a5933dd0c8eaafa16978110389"),
    )),
    Family(mode="torch", file="{joined}_notop.h5", host=EFFICIENTNET_HOST,
           block=r"^(stem|block\d|top)", models=(
        Model("efficientnet_b0", "EfficientNetB0", 4_049_564, 224,
              "50bc09e76180e00e4465e1a485ddc09d"),
        Model("efficientnet_b1", "EfficientNetB1", 6_575_232, 240,
              "74c4e6b3e1f6a1eea24c589628592432"),
        Model("efficientnet_b2", "EfficientNetB2", 7_768_562, 260,
              "111f8e2ac8aa800a7a99e3239f7bfb39"),
        Model("efficientnet_b3", "EfficientNetB3", 10_783_528, 300,
              "af6d107764bb5b1abb91932881670226"),
        Model("efficientnet_b4", "EfficientNetB4", 17_673_816, 380,
              "ebc24e6d6c33eaebbd558eafbeedf1ba"),
        Model("efficientnet_b5", "EfficientNetB5", 28_513_520, 456,
              "38879255a25d3c92d5e44e04ae6cec6f"),
        Model("efficientnet_b6", "EfficientNetB6", 40_960_136, 528,
              "9ecce42647a20130c1f39a5d4cb75743"),
        Model("efficientnet_b7", "EfficientNetB7", 64_097_680, 600,
              "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    )),
    Family(mode="torch", file="efficientnet_v2/efficientnetv2-{last}_notop.h5",
           block=r"^(stem|block\d|top)", preprocesses=True, models=(
        Model("efficientnet_v2_b0", "EfficientNetV2B0", 5_919_312, 224,
              "893217f2bb855e2983157299931e43ff"),
        Model("efficientnet_v2_b1", "EfficientNetV2B1", 6_931_124, 240,
              "0e80663031ca32d657f9caa404b6ec37"),
        Model("efficientnet_v2_b2", "EfficientNetV2B2", 8_769_374, 260,
              "1dfe2e7a5d45b6632553a8961ea609eb"),
        Model("efficientnet_v2_b3", "EfficientNetV2B3", 12_930_622, 300,
              "f6abf7b5849ac99a89b50dd3fd532856"),
    )),
    Family(mode="half", file="efficientnet_v2/efficientnetv2-{last}_notop.h5",
           block=r"^(stem|block\d|top)", preprocesses=True, models=(
        Model("efficientnet_v2_s", "EfficientNetV2S", 20_331_360, 384,
              "af0682fb74e8c54910f2d4393339c070"),
        Model("efficientnet_v2_m", "EfficientNetV2M", 53_150_388, 480,
              "1b8dc055df72dde80d614482840fe342"),
        Model("efficientnet_v2_l", "EfficientNetV2L", 117_746_848, 480,
              "b0b66b5c863aef5b46e8608fe1711615"),
    )),
    Family(mode="tf", file="nasnet/NASNet-{last}-no-top.h5",
           block=r"(?<!activation)_(stem_\d|reduce_\d+|\d+)$", prefix="cell_", closes=True, models=(
        Model("nasnet_mobile", "NASNetMobile", 4_269_716, 224, "1ed92395b5b598bdda52abe5c0dbfd63"),
        Model("nasnet_large", "NASNetLarge", 84_916_818, 331, "d81d89dc07e6e56530c4e77faddd61b5"),
    )),
    Family(mode="torch", file="convnext/{name}_notop.h5",
           block=r"_(stem|stage_\d)", closes=True, preprocesses=True, models=(
        Model("convnext_tiny", "ConvNeXtTiny", 27_820_128, 224,
              "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
        Model("convnext_small", "ConvNeXtSmall", 49_454_688, 224,
              "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
        Model("convnext_base", "ConvNeXtBase", 87_566_464, 224,
              "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
        Model("convnext_large", "ConvNeXtLarge", 196_230_336, 224,
              "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
        Model("convnext_xlarge", "ConvNeXtXLarge", 348_147_968, 224,
              "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
    )),
)
# fmt: on


@typed_init
@frozen(kw_only=True)
class KerasApplication(Backbone):
    """A model of `keras.applications` without its classifier.

    Attributes:
        image_size: Height and width of the input, in pixels.
    """

    family: ClassVar[Family]
    published: ClassVar[Model]
    imagenet: ClassVar[weights.RemoteFile]

    @property
    def params(self) -> int:
        """Return the number of its parameters, without building it."""
        return self.published.params

    def layers(self) -> LayerTable:
        """Return its layers; the network is built once, and the table is kept on disk."""
        settings = {"image_size": self.image_size}
        return cached_table(self.published.name, settings, self._table)

    def _table(self) -> LayerTable:
        family = self.family
        return layer_table(self.build()).grouped(family.block, family.prefix, family.closes)

    def build(self) -> keras.Model:
        """Return the model without nested models, with its layers named in their order."""
        start_keras()
        model = self._as_published()
        renumber_names(model)
        if any(map(_must_go, model.layers)):
            model = flattened(model, drop=_is_preprocessing)
            renumber_names(model)
        return model

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Preprocess RGB pixels as in the training of the published weights."""
        return MODES[self.family.mode](images)

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""
        order = tuple(_keras_2_order(model))

        def read(source: WeightsSource) -> Arrays:
            return weights.read_source(source, self.imagenet, PREPROCESSING).in_order_of(order)

        return weights.load_first(model, self.sources, read)

    def _as_published(self) -> keras.Model:
        import keras

        settings: dict[str, Any] = (
            {"include_preprocessing": False} if self.family.preprocesses else {}
        )
        shape = (self.image_size, self.image_size, 3)
        function = getattr(keras.applications, self.published.function)
        return function(include_top=False, weights=None, input_shape=shape, **settings)


def _must_go(layer: keras.Layer) -> bool:
    """Tell whether a layer is a nested model or preprocessing."""
    import keras

    return isinstance(layer, keras.Model) or _is_preprocessing(layer)


def _is_preprocessing(layer: keras.Layer) -> bool:
    import keras

    return isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)


def _keras_2_order(model: keras.Model) -> Iterator[str]:
    """Yield the names of a model's weights in the order in which files of Keras 2 list them."""
    for layer in model.layers:
        learnable = {id(variable) for variable in learnable_variables(layer)}
        listed = sorted(named_weights(layer), key=lambda pair: id(pair[1]) not in learnable)
        yield from (f"{layer.name}/{name}" for name, _ in listed)


def _part(family: Family, model: Model) -> type[KerasApplication]:
    size = field(default=model.image_px, validator=at_least(family.min_px))
    body = {
        "__doc__": f"""{model.function} of `keras.applications`.

        Attributes:
            image_size: Height and width of the input, in pixels, at least {family.min_px}.
        """,
        "__module__": __name__,
        "__annotations__": {"image_size": int},
        "image_size": size,
        "family": family,
        "published": model,
        "imagenet": family.remote(model),
    }
    return part(model.name)(type(model.function, (KerasApplication,), body))


PARTS = {model.function: _part(family, model) for family in FAMILIES for model in family.models}


def __getattr__(name: str) -> Any:
    """Return the class of a model, so that each is found under its name in this module."""
    if name not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return PARTS[name]

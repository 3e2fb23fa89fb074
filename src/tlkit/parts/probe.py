"""The head `probe`: pooled features of several depths, standardized, and a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from attrs import evolve, field

from tlkit.model.layers import HEAD, Layer, LayerTable
from tlkit.parts.heads import SCORES, dense_row, pool_name, standardize_layer, standardize_row
from tlkit.parts.kinds import Head, part
from tlkit.parts.validators import at_least, unless_none
from tlkit.system.errors import FieldError
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras


@part("probe")
class Probe(Head):
    """Pooling of one or several depths of the backbone, standardization and softmax.

    Lower layers add what the last one has discarded. If the backbone is frozen, only the pooled
    features are cached, a few kilobytes per image.

    Attributes:
        depths: Number of depths to take features from, from the top: the ends of the spatial
            resolutions, including the pooling that reduces them. If the resolution never changes,
            as in a transformer, the ends of the blocks. Unset, or if there are fewer: all.
        layer_names: The layers to take features from, by names, globs or numbers, instead of
            `depths`. Layers above the last one are left out of the model.
        pooling: `avg` or `max` over height and width, or over tokens, or `concat` for both. On
            X-rays and photographs, `avg` alone was as good as both.
        standardize: Subtract each feature's mean over the training images and divide by its
            standard deviation; both are computed once, before the head is trained.
    """

    depths: int | None = field(default=None, validator=unless_none(at_least(1)))
    layer_names: tuple[str, ...] = ()
    pooling: Literal["avg", "max", "concat"] = "avg"
    standardize: bool = True

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows for features of one depth."""
        return self._rows([features], classes)

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling, standardization and the scores to features of one depth."""
        return self._join([features], classes)

    def layers_on(self, backbone: LayerTable, classes: int) -> LayerTable:
        """Return the backbone's rows up to the deepest chosen layer, and the head's.

        Raises:
            FieldError: If a key does not fit the backbone.
        """
        chosen = self._chosen(backbone)
        below = [
            evolve(layer, is_cut_point=False, is_cut_beside_pools=True)
            if layer.is_cut_point and number > min(chosen)
            else layer
            for number, layer in backbone
            if number <= max(chosen)
        ]
        shapes = [backbone[number].output_shape for number in chosen]
        return LayerTable(tuple(below)) + self._rows(shapes, classes)

    def connect(self, backbone: keras.Model, layers: LayerTable, classes: int) -> keras.KerasTensor:
        """Add pooling of the chosen layers, standardization and the scores."""
        names = [layers[number].name for number in self._chosen(layers)]
        return self._join([backbone.get_layer(name).output for name in names], classes)

    def _chosen(self, table: LayerTable) -> list[int]:
        """Return the numbers of the layers to take features from, rising in each network."""
        networks = table.networks()
        if not self.layer_names:
            return [n for network in networks for n in _ends(network)[-(self.depths or 0) :]]
        chosen: set[int] = set()
        for name in self.layer_names:
            try:
                chosen |= table.select(name)
            except ValueError as error:
                raise FieldError("layer_names", str(error)) from None
        for network in networks:
            cuts = [number for number, layer in network.items() if layer.is_cut_point]
            last = max((number for number in network if number in chosen), default=0)
            if len(networks) > 1 and last != max(cuts):  # they are numbered from their ends
                message = f"of a joined backbone, list {network[max(cuts)].name!r} too"
                raise FieldError("layer_names", f"{message}, the end of that member")
            if last not in cuts:
                above_it = next((n for n in cuts if n > last), len(table))
                raise FieldError(
                    "layer_names",
                    f"{table[last].name!r} is inside a branch, so its output is not all that "
                    f"follows needs; take {table[above_it].name!r} as the last",
                )
        return [n for network in networks for n in network if n in chosen]

    def _rows(self, shapes: Sequence[tuple[int, ...]], classes: int) -> LayerTable:
        rows = [
            Layer(name, kind, HEAD, (shapes[place][-1],), is_cut_point=False, fixed=True)
            for place, name, kind in self._pools(shapes)
        ]
        width = sum(row.output_shape[0] for row in rows)
        if len(rows) > 1:
            rows.append(Layer("pool", "Concatenate", HEAD, (width,)))
        rows[-1] = evolve(rows[-1], is_cut_point=True, fixed=True)
        if self.standardize:
            rows.append(standardize_row(width))
        return LayerTable((*rows, dense_row(SCORES, width, classes)))

    def _join(self, features: Sequence[keras.KerasTensor], classes: int) -> keras.KerasTensor:
        start_keras()
        from keras import layers

        return layers.Dense(classes, "softmax", name=SCORES)(self._vector(features))

    def _vector(self, features: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        from keras import layers

        pools = [
            getattr(layers, kind)(name=name)(features[place])
            for place, name, kind in self._pools([tensor.shape[1:] for tensor in features])
        ]
        vector = pools[0] if len(pools) == 1 else layers.Concatenate(name="pool")(pools)
        if self.standardize:
            vector = standardize_layer()(name="standardize")(vector)
        return vector

    def _pools(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, str, str]]:
        """Return each pooling's place among the features, its name and its class, in order."""
        kinds = ("avg", "max") if self.pooling == "concat" else (self.pooling,)
        pools = []
        for place, shape in enumerate(shapes):
            # A vector is passed on, once. Even then a layer stands between: Keras numbers layers
            # from the last one, and the backbone's must all come before the pools.
            for kind in kinds if len(shape) > 1 else kinds[:1]:
                pools.append((place, f"pool_{place + 1}_{kind}", pool_name(kind, shape)))
        return [(0, "pool", pools[0][2])] if len(pools) == 1 else pools


def _ends(network: Mapping[int, Layer]) -> list[int]:
    """Return the numbers of the last layers of each resolution, or of each block if it is one."""
    rows = [(n, x) for n, x in network.items() if x.is_cut_point and "Padding" not in x.kind]
    sides = [layer.output_shape[:-1] for _, layer in rows]
    if len(set(sides)) == 1:
        return sorted({layer.block: number for number, layer in rows}.values())
    ends = []
    for place, (number, layer) in enumerate(rows):
        pools, last = "Pool" in layer.kind, place + 1 == len(rows)
        reduces = pools and place > 0 and sides[place] != sides[place - 1]
        closes = last or (
            sides[place] != sides[place + 1] and "Pool" not in rows[place + 1][1].kind
        )
        if reduces or closes:
            ends.append(number)
    return ends

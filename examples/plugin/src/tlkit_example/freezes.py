"""A freeze policy: a pure function from the table of layers to a rate for each."""

import attrs

import tlkit
from tlkit.parts.validators import at_least


@attrs.frozen(kw_only=True)
class EveryOther(tlkit.FreezePolicy):
    """Train every second layer of the backbone, and the head.

    Attributes:
        first: The number of the first layer that is trained; `tlkit layers` prints the numbers.
    """

    first: int = attrs.field(default=1, validator=at_least(1))

    def stages(self, layers: tlkit.LayerTable, epochs: int) -> tuple[tlkit.Stage, ...]:
        """Return one stage: rate 1 for what is trained, 0 for what is frozen."""
        if self.first > len(layers):  # tlkit adds where in the file the key stands
            raise tlkit.FieldError("first", f"there are layers 1-{len(layers)}, got {self.first}")
        chosen = frozenset(range(self.first, len(layers) + 1, 2))
        chosen |= {number for number, layer in layers if layer.block == "head"}
        return (tlkit.Stage(epochs, layers.rates(chosen)),)

"""A freeze policy: a pure function from a table of layers to a multiplier per layer."""

import attrs

import tlkit
from tlkit.parts.validators import at_least


@tlkit.part("every_other")
class EveryOther(tlkit.FreezePolicy):
    """Train every second layer of the backbone, and the head.

    Attributes:
        first: The number of the first trained layer; `tlkit layers` prints the numbers.
    """

    first: int = attrs.field(default=1, validator=at_least(1))

    def stages(self, layers: tlkit.LayerTable, epochs: int) -> tuple[tlkit.Stage, ...]:
        """Return one stage: multiplier 1 for trained layers, 0 for frozen ones."""
        if self.first > len(layers):  # tlkit adds the key's path in the file
            raise tlkit.FieldError("first", f"there are layers 1-{len(layers)}, got {self.first}")
        chosen = frozenset(range(self.first, len(layers) + 1, 2))
        chosen |= {number for number, layer in layers if layer.block == "head"}
        return (tlkit.Stage(epochs, layers.rates(chosen)),)

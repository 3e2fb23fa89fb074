"""tlkit's checks of this package's parts; the package must be installed."""

import tlkit
from tlkit.testing import check_part


def test_backbone():
    check_part(tlkit.registries.backbones, "tiny_cnn", image_size=16, widths=[4, 8])


def test_freeze_policy():
    check_part(tlkit.registries.freezes, "every_other", first=2)


def test_class_weights():
    part = check_part(tlkit.registries.class_weights, "square_root")
    assert part.for_counts({"rare": 1, "common": 4}) == {"rare": 2.5**0.5, "common": 0.625**0.5}

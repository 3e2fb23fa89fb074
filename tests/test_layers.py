"""Layer numbers: VGG-16 with the study's head as the fixed point, ranges, names and messages."""

from __future__ import annotations

import pytest

from tlkit.model.layers import Layer, LayerError, LayerRange, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import HeadOnly, TrainNames, TrainRange
from tlkit.parts.heads import FlattenDense
from tlkit.system.errors import FieldError
from tlkit.train.plan import model_layers

STUDY = model_layers(VGG16(image_size=224), FlattenDense(), classes=3)
NAMES = [
    *("block1_conv1", "block1_conv2", "block1_pool"),
    *("block2_conv1", "block2_conv2", "block2_pool"),
    *("block3_conv1", "block3_conv2", "block3_conv3", "block3_pool"),
    *("block4_conv1", "block4_conv2", "block4_conv3", "block4_pool"),
    *("block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"),
    *("flatten", "dense_1", "dense_2", "scores"),
]


class TestTheStudysModel:
    """The numbers of the paper's Table 4: 1-18 are VGG-16, 19-22 are the head."""

    def test_layers_are_numbered_from_1_in_forward_order(self) -> None:
        assert [(number, layer.name) for number, layer in STUDY] == list(enumerate(NAMES, start=1))
        assert STUDY.blocks == ("block1", "block2", "block3", "block4", "block5", "head")

    @pytest.mark.parametrize(
        ("number", "shape", "params"),
        [
            (1, (224, 224, 64), 1_792),
            (3, (112, 112, 64), 0),
            (17, (14, 14, 512), 2_359_808),
            (18, (7, 7, 512), 0),
            (19, (25_088,), 0),
            (20, (1024,), 25_691_136),
            (21, (1024,), 1_049_600),
            (22, (3,), 3_075),
        ],
    )
    def test_shapes_and_parameters(self, number: int, shape: tuple[int, ...], params: int) -> None:
        assert (STUDY[number].output_shape, STUDY[number].params) == (shape, params)

    @pytest.mark.parametrize(
        ("train", "params"), [("1-18", 14_714_688), ("19-22", 26_743_811), ("1-22", 41_458_499)]
    )
    def test_ranges_train_the_published_number_of_parameters(self, train: str, params: int) -> None:
        stage = TrainRange(train=LayerRange.parse(train)).planned(STUDY, 1)[0]
        assert STUDY.trainable_params(stage.lr_multipliers) == params

    def test_block_5_has_three_convolutions_worth_of_parameters(self) -> None:
        rates = STUDY.rates(STUDY.named("block5"))
        assert STUDY.trainable_params(rates) == 7_079_424

    def test_the_head_is_19_to_22_and_the_prefix_ends_before_it(self) -> None:
        assert (
            STUDY.select("head") == STUDY.select("19-22") == STUDY.select("19–") == {*range(19, 23)}
        )
        assert STUDY.frozen_prefix(HeadOnly().planned(STUDY, 1)[0].lr_multipliers) == 18


class TestBlockRanges:
    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("blocks:5-", range(15, 23)),
            ("blocks:4-5", range(11, 19)),
            ("blocks:–1", range(1, 4)),
            (" blocks:2", range(4, 7)),
        ],
    )
    def test_they_go_by_the_numbers_in_block_names(self, text: str, numbers: range) -> None:
        assert STUDY.select(text) == {*numbers}
        assert STUDY.in_range(LayerRange.parse(text)) == {*numbers}
        assert LayerRange.parse(str(LayerRange.parse(text))) == LayerRange.parse(text)
        (stage,) = TrainNames(train=(text.strip(),)).stages(STUDY, 1)
        assert stage.lr_multipliers == STUDY.rates(frozenset(numbers))

    @pytest.mark.parametrize("text", ["blocks:6", "blocks:5-6", "blocks:7-"])
    def test_a_block_that_does_not_exist_is_an_error(self, text: str) -> None:
        with pytest.raises(LayerError, match=rf"^{text}: the last numbered block is 5\n"):
            STUDY.select(text)
        with pytest.raises(FieldError, match=r"^train: .*the last numbered block is 5"):
            TrainNames(train=(text,)).stages(STUDY, 1)

    @pytest.mark.parametrize("text", ["blocks:", "blocks:x", "blocks:0-1", "blocks:3-2"])
    def test_a_range_that_is_none_is_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"expected layers|the first layer|must not come"):
            STUDY.select(text)


class TestRanges:
    def test_text_is_for_parse(self) -> None:
        with pytest.raises(TypeError, match=r"^needs numbers, got '19-22'; LayerRange\.parse"):
            LayerRange("19-22")  # type: ignore[arg-type]  # wrong on purpose

    @pytest.mark.parametrize(
        ("text", "first", "last"),
        [
            ("19-22", 19, 22),
            ("19–22", 19, 22),  # the paper's en dash
            ("20", 20, 20),
            ("19-", 19, None),
            ("19–", 19, None),
            ("-18", 1, 18),
            ("–18", 1, 18),
            (" 19 - 22 ", 19, 22),
            (" 20 ", 20, 20),
            ("007", 7, 7),
        ],
    )
    def test_a_range_is_read_in_every_documented_form(
        self, text: str, first: int, last: int | None
    ) -> None:
        assert LayerRange.is_range(text)
        assert LayerRange.parse(text) == LayerRange(first, last)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "^expected layers such as '19-22', '20', '19-' or '-18', got ''$"),
            ("-", "^expected layers such as"),
            ("a-b", "^expected layers such as .* got 'a-b'$"),
            ("1-2-3", "^expected layers such as"),
            ("1,2", "^expected layers such as"),
            ("1 2", "^expected layers such as .* got '1 2'$"),
            ("1.5", "^expected layers such as"),
            ("--5", "^expected layers such as"),
            ("1—5", "^expected layers such as"),  # an em dash
            ("9" * 100, "^expected layers such as .* got '9{40}'$"),
            ("0", "^layer 0 is the input, the first layer is 1$"),
            ("0-5", "^layer 0 is the input, the first layer is 1$"),
            ("-0", "^the last layer must not come before the first, got 1-0$"),
            ("5-3", "^the last layer must not come before the first, got 5-3$"),
        ],
    )
    def test_anything_else_is_an_error(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LayerRange.parse(text)

    @pytest.mark.parametrize("text", ["head", "block5_*", "-", "", "dense_1", "conv-2"])
    def test_a_name_is_not_taken_for_a_range(self, text: str) -> None:
        assert not LayerRange.is_range(text)


class TestMessages:
    def test_a_range_past_the_end_tells_the_last_layer(self) -> None:
        for text, shown in (("19-23", "19-23"), ("23-", "23-"), ("23", "23")):
            message = rf"^layers {shown} reach past the last one, 22 \(scores\)\n"
            with pytest.raises(LayerError, match=message):
                STUDY.select(text)

    def test_a_number_that_is_no_layer_tells_which_there_are(self) -> None:
        for number in (0, 23, -1):
            with pytest.raises(LayerError, match=rf"^layer {number}: there are layers 1-22\n"):
                STUDY[number]

    def test_a_name_that_matches_nothing_tells_the_nearest_layer_or_block(self) -> None:
        message = r"^no layer or block matches 'block5_con1'; did you mean 'block5_conv1'\?\n"
        with pytest.raises(LayerError, match=message):
            STUDY.named("block5_con1")
        with pytest.raises(LayerError, match=r"matches 'heads'; did you mean 'head'\?\n"):
            STUDY.named("heads")
        with pytest.raises(LayerError, match=r"matches 'conv1'; did you mean '\*conv1\*'\?\n"):
            STUDY.named("conv1")
        with pytest.raises(LayerError, match=r"matches 'zzz\*'\n"):
            STUDY.named("zzz*")

    def test_a_message_ends_with_the_nearest_layers_only(self) -> None:
        def rows(selector: str) -> list[str]:
            with pytest.raises(LayerError) as raised:
                STUDY.select(selector)
            _, head, *rows = str(raised.value).splitlines()
            assert head.startswith("no.  layer")
            return [row.split()[1] for row in rows]

        assert rows("19-23") == ["block5_pool", "flatten", "dense_1", "dense_2", "scores"]
        nearest = rows("block5_con1")
        assert len(nearest) == 5
        assert "block5_conv1" in nearest
        assert rows("flaten") == ["flatten"]
        with pytest.raises(LayerError, match="'zzz'\nblocks: block1, block2, block3, block4, blo"):
            STUDY.select("zzz")

    def test_a_held_batch_norm_that_is_named_is_refused(self) -> None:
        table = LayerTable((
            Layer("conv", "Conv2D", "block1", (8, 8, 4), 10),
            Layer("norm", "BatchNormalization", "block1", (8, 8, 4), 8, 8, batch_norm=True),
            Layer("head_bn", "BatchNormalization", "head", (4,), 8, 8, batch_norm=True),
        ))  # fmt: skip
        for selector, mode, ways in (
            ("norm", "inference", "'train'"), ("head_bn", "inference", "'head' or 'train'"),
            ("2", "head", "'train'"),
        ):  # fmt: skip
            with pytest.raises(LayerError, match=rf"is BatchNorm, held fixed by .* to {ways}\n"):
                table.refuse_held(selector, table.select(selector), mode)
        for selector, mode in (
            ("block1", "inference"), ("*norm", "inference"), ("head_bn", "head"), ("norm", "train"),
        ):  # fmt: skip
            table.refuse_held(selector, table.select(selector), mode)

    def test_one_layer_is_chosen_by_number_or_name_and_nothing_else(self) -> None:
        assert STUDY.choose("17") == STUDY.choose("block5_conv3") == STUDY.choose("*5_conv3") == 17
        for selector, message in (
            ("block5", r"^must be one layer, got 'block5', which selects 4\nno\. "),
            ("1-2", r"^must be one layer, got '1-2', which selects 2\nno\. "),
            ("23", r"^layers 23 reach past the last one, 22 "),
            ("0", r"^layer 0 is the input, the first layer is 1$"),
            ("block5_con3", r"; did you mean 'block5_conv3'\?\n"),
        ):
            with pytest.raises(ValueError, match=message):
                STUDY.choose(selector)

    def test_rates_for_another_number_of_layers_are_refused(self) -> None:
        for use in (STUDY.frozen_prefix, STUDY.trainable_params, STUDY.render):
            with pytest.raises(ValueError, match=r"^expected one rate for each of 22 "):
                use([1.0])


def test_the_table_is_shown_with_rates_if_there_are_any() -> None:
    table = LayerTable(
        (
            Layer("block1_conv1", "Conv2D", "block1", (32, 32, 64), 1792),
            Layer("bn", "BatchNormalization", "block1", (32, 32, 64), 128, 128),
            Layer("scores", "Dense", "head", (3,), 1539),
        )
    )
    assert table.render().splitlines() == [
        "no.  layer         kind                block   output    parameters",
        "  1  block1_conv1  Conv2D              block1  32×32×64       1,792",
        "  2  bn            BatchNormalization  block1  32×32×64         256",
        "  3  scores        Dense               head    3              1,539",
    ]
    assert [line.split()[-1] for line in table.render((0, 0.1, 1)).splitlines()] == [
        "rate",
        "frozen",
        "0.1",
        "1",
    ]
    assert str(table) == table.render()


def test_a_notebook_shows_a_large_network_by_block_and_its_layers_on_a_click() -> None:
    layers = [Layer(f"conv{n}", "Conv2D", f"block{n // 10}", (8, 8, 8), 100) for n in range(41)]
    large, small = LayerTable(tuple(layers)), LayerTable(tuple(layers[:40]))
    rates = [0] * 40 + [1]
    blocks, _, every = large.html(rates).partition("<details>")
    assert (blocks.count("<tr>"), every.count("<tr>")) == (1 + 5, 1 + 41)
    assert "<td>(10 layers)</td>" in blocks
    assert small.html(rates[:40]).count("<tr>") == 1 + 40


def test_a_block_with_one_rate_is_a_row() -> None:
    table = LayerTable(
        (
            Layer("a", "Conv2D", "block1", (32, 32, 8), 100),
            Layer("b", "Conv2D", "block1", (16, 16, 8), 100),
            Layer("c", "Conv2D", "block2", (8, 8, 8), 100),
            Layer("bn", "BatchNormalization", "block2", (8, 8, 8), 100),
            Layer("d", "Conv2D", "block3", (8, 8, 8), 1000),
            Layer("e", "Conv2D", "block3", (4, 4, 8), 100),
            Layer("scores", "Dense", "head", (3,), 27),
        )
    )
    assert table.render((0, 0, 0.1, 0, 0.1, 1, 1), by_block=True).splitlines() == [
        "no.  layer       kind    block   output   parameters           rate",
        "1-2  (2 layers)          block1  16×16×8         200         frozen",
        "3-4  (2 layers)          block2  8×8×8           200  0.1, 1 frozen",
        "  5  d           Conv2D  block3  8×8×8         1,000            0.1",
        "  6  e           Conv2D  block3  4×4×8           100              1",
        "  7  scores      Dense   head    3                27              1",
    ]

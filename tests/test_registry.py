"""The registry: names, decorators, and parts that other packages announce as entry points."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen
from tests.fakes import OneConvolution
from typer.testing import CliRunner

from tlkit.cli import app
from tlkit.config.structure import unstructure
from tlkit.parts.heads import FlattenDense, Pooled
from tlkit.parts.kinds import ClassWeights, Head, Schedule, Stage, part, registries
from tlkit.parts.registry import Registry, installed_entry_points
from tlkit.system.errors import (
    ConflictWarning,
    DuplicatePart,
    PartError,
    RenamedWarning,
    UnknownPart,
)

GROUP = "tlkit.heads"
# A package that announces a head; it says so in `sys.modules` when it is imported.
HEAD_MODULE = """
from attrs import evolve, field, frozen
from tests.fakes import OneConvolution
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Head

@frozen(kw_only=True)
class {name}(Head):
    \"\"\"A head of another package.\"\"\"

    def layers(self, features, classes): return LayerTable(())
    def attach(self, features, classes): return features
"""


@frozen
class Tool:
    """A kind of part to register; as every kind, an attrs class."""


@frozen
class Hammer(Tool):
    """Drive nails.

    Attributes:
        weight: In kilograms.
    """

    weight: float = 1.0


@frozen
class Saw(Tool):
    """Cut wood."""


class Plain(Tool):
    """No attrs class itself: what it declares would be no field."""

    length: int = 3


@frozen
class Stone:
    """An attrs class, but no tool."""


@pytest.fixture
def tools() -> Registry[Tool]:
    found = Registry("tool", Tool)
    found.register("hammer")(Hammer)
    return found


@pytest.fixture
def heads() -> Registry[Head]:
    """A registry of heads that other packages may add to, without the state of tlkit's own."""
    found = Registry("head", registries.heads.base, group=GROUP)
    found.register("pooled")(Pooled)
    found.register("flatten_dense")(FlattenDense)
    return found


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give a function that installs a distribution with entry points and modules."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = {*sys.modules}

    def installed(distribution: str, points: dict[str, str], **sources: str) -> None:
        info = tmp_path / f"{distribution}-1.2.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        (info / "METADATA").write_text(metadata)
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        for module, source in sources.items():
            (tmp_path / f"{module}.py").write_text(source)
        installed_entry_points.cache_clear()

    yield installed
    installed_entry_points.cache_clear()
    for module in {*sys.modules} - modules:
        del sys.modules[module]


class TestNames:
    def test_a_part_is_found_by_its_name(self, tools: Registry[Tool]) -> None:
        assert tools.get("hammer") is Hammer
        assert tools.names() == ("hammer",)

    def test_names_are_sorted(self, tools: Registry[Tool]) -> None:
        tools.register("axe.2-x_y")(Saw)
        assert tools.names() == ("axe.2-x_y", "hammer")

    def test_the_decorator_returns_the_class_itself(self, tools: Registry[Tool]) -> None:
        assert tools.register("saw")(Saw) is Saw

    def test_a_part_is_described_by_its_docstring_and_place(self, tools: Registry[Tool]) -> None:
        found = tools.find("hammer")
        assert found.target == f"{__name__}:Hammer"
        assert found.source == "this process"
        assert found.summary == "Drive nails."
        assert found.file.startswith("test_registry.py:")

    def test_a_part_of_tlkit_is_described_as_such(self) -> None:
        found = registries.heads.find("pooled")
        assert (found.target, found.source) == ("tlkit.parts.heads:Pooled", "tlkit")

    def test_a_taken_name_is_refused(self, tools: Registry[Tool]) -> None:
        message = r"^tool 'hammer': the name is taken by \S+:Hammer, got \S+:Saw; choose another"
        with pytest.raises(DuplicatePart, match=message):
            tools.register("hammer")(Saw)
        assert tools.get("hammer") is Hammer

    def test_the_same_class_can_be_registered_twice(self, tools: Registry[Tool]) -> None:
        tools.register("hammer")(Hammer)
        assert tools.names() == ("hammer",)

    @pytest.mark.parametrize(
        "name", ["", "Hammer", "a/b", "..", ".a", "-a", "_a", "a b", "a\n", "ä", "a:b"]
    )
    def test_a_name_of_other_characters_is_refused(self, tools: Registry[Tool], name: str) -> None:
        with pytest.raises(PartError, match=r"a name consists of a-z, 0-9, '_', '\.' and '-'"):
            tools.register(name)

    @pytest.mark.parametrize("part", [Plain, Hammer(), len])
    def test_what_is_no_attrs_class_is_refused(self, tools: Registry[Tool], part: Any) -> None:
        with pytest.raises(PartError, match=r"'x': a part is an attrs class, got .*above @frozen$"):
            tools.register("x")(part)

    def test_a_decorator_below_frozen_is_refused(self, tools: Registry[Tool]) -> None:
        with pytest.raises(PartError, match=r"put the register decorator above @frozen$"):

            @frozen
            @tools.register("upside_down")
            class UpsideDown(Tool):
                size: int = 1

    def test_a_part_of_another_kind_is_refused(self, tools: Registry[Tool]) -> None:
        with pytest.raises(PartError, match=r"^tool 'stone': must extend Tool, got \S+:Stone$"):
            tools.register("stone")(Stone)

    def test_a_part_without_its_kinds_methods_is_refused(self, heads: Registry[Head]) -> None:
        message = r"^head 'half': \S+Half lacks what every Head must have: attach, layers$"
        with pytest.raises(PartError, match=message):

            @heads.register("half")
            @frozen
            class Half(Head):
                def attached(self) -> None:
                    """A misspelt method."""

    def test_an_unknown_name_gives_the_nearest_and_the_whole_list(
        self, tools: Registry[Tool]
    ) -> None:
        tools.register("saw")(Saw)
        message = r"^no tool named 'hamer'; did you mean 'hammer'\? known: hammer, saw$"
        for ask in (tools.get, tools.find):
            with pytest.raises(UnknownPart, match=message):
                ask("hamer")
        with pytest.raises(UnknownPart, match=r"^no tool named 'zzz'; known: hammer, saw$"):
            tools.get("zzz")


class TestAnnounced:
    def test_a_part_is_listed_and_described_without_importing_its_package(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"acme_head": "acme_mod:Acme"}, acme_mod="raise SystemExit('imported')")
        assert "acme_head" in heads.names()
        found = heads.find("acme_head")
        assert (found.target, found.source) == ("acme_mod:Acme", "acme 1.2")
        assert "acme_mod" not in sys.modules

    def test_a_part_is_loaded_when_asked_for_by_its_exact_name(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"acme_head": "acme_mod:Acme"}, acme_mod=HEAD_MODULE.format(name="Acme"))
        with pytest.raises(UnknownPart, match="did you mean 'acme_head'"):
            heads.get("acme_hea")
        assert "acme_mod" not in sys.modules
        assert heads.get("acme_head").__name__ == "Acme"
        assert heads.get("acme_head") is heads.get("acme_head")
        assert heads.find("acme_head").summary == "A head of another package."

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
            ("def", "SyntaxError: invalid syntax"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("", "AttributeError: module 'acme_mod' has no attribute 'Acme'"),
        ],
    )
    def test_a_broken_package_is_named_and_harmless_unless_used(
        self, heads: Registry[Head], install: Callable[..., None], source: str, reason: str
    ) -> None:
        install("acme", {"acme_head": "acme_mod:Acme"}, acme_mod=source)
        assert heads.get("pooled") is Pooled
        assert "acme_head" in heads.names()
        message = (
            r"^head 'acme_head': entry point 'acme_head' \(acme_mod:Acme\) of acme 1\.2 "
            rf"cannot be imported: {reason}"
        )
        with pytest.raises(PartError, match=message):
            heads.get("acme_head")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("Acme = 3", "a part is an attrs class, got 3"),
            ("class Acme: pass", r"; decorate it with @attrs\.frozen\(kw_only=True\)"),
            (
                "import attrs\n@attrs.frozen\nclass Acme: pass",
                "must extend Head, got acme_mod:Acme",
            ),
        ],
    )
    def test_an_object_of_the_wrong_kind_is_refused_with_its_distribution(
        self, heads: Registry[Head], install: Callable[..., None], source: str, message: str
    ) -> None:
        install("acme", {"acme_head": "acme_mod:Acme"}, acme_mod=source)
        with pytest.raises(PartError, match=rf"{message}.*\(from entry point .* of acme 1\.2\)$"):
            heads.get("acme_head")

    def test_two_distributions_that_claim_one_name_are_both_named(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"shared": "acme_mod:Acme"}, acme_mod=HEAD_MODULE.format(name="Acme"))
        install("zeta", {"shared": "zeta_mod:Zeta"}, zeta_mod=HEAD_MODULE.format(name="Zeta"))
        assert heads.get("pooled") is Pooled
        message = r"^head 'shared': claimed by .* of acme 1\.2 and .* of zeta 1\.2; uninstall one"
        with pytest.raises(DuplicatePart, match=message):
            heads.get("shared")
        shared = heads.find("shared")
        assert (shared.source, shared.conflicts) == ("acme 1.2", ("zeta 1.2",))

    def test_a_distribution_that_claims_a_built_in_name_never_replaces_it(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"pooled": "acme_mod:Acme"}, acme_mod="raise SystemExit('imported')")
        message = r"^head 'pooled': tlkit's own is used; entry point .* of acme 1\.2 claims the"
        with pytest.warns(ConflictWarning, match=message):
            assert heads.get("pooled") is Pooled
        assert heads.find("pooled").conflicts == ("acme 1.2",)
        assert heads.find("flatten_dense").conflicts == ()
        assert heads.get("flatten_dense").__name__ == "FlattenDense"

    def test_a_claimed_built_in_name_hinders_no_other_part(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"flatten_dense": "acme_mod:Acme"})
        assert unstructure(Pooled(), registry=heads)["name"] == "pooled"

    def test_a_claimed_name_can_still_be_listed(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install("acme", {"pooled": "acme_mod:Acme"})
        assert [heads.find(name).name for name in heads.names()] == [*heads.names()]

    def test_the_command_shows_conflicts(self, install: Callable[..., None]) -> None:
        install("acme", {"pooled": "acme_mod:Acme", "shared": "acme_mod:Acme"})
        install("zeta", {"shared": "zeta_mod:Zeta"})
        lines = CliRunner().invoke(app, ["list", "heads"]).stdout.splitlines()
        (pooled,) = [line for line in lines if line.startswith("  pooled")]
        assert pooled.endswith(" (tlkit's own is used; also claimed by acme 1.2)")
        (shared,) = [line for line in lines if line.startswith("  shared")]
        assert shared.endswith("acme 1.2 (CONFLICT: also claimed by zeta 1.2; uninstall one)")
        told = json.loads(CliRunner().invoke(app, ["list", "heads", "pooled", "--json"]).stdout)
        assert told[0]["conflicts"] == ["acme 1.2"]

    def test_a_package_that_registers_a_built_in_name_is_named(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        source = HEAD_MODULE.format(name="Acme") + (
            "\nfrom tlkit.parts.kinds import registries\nregistries.heads.register('pooled')(Acme)"
        )
        install("acme", {"acme_head": "acme_mod:Acme"}, acme_mod=source)
        message = r"of acme 1\.2 cannot be imported: DuplicatePart: head 'pooled': .* is taken"
        with pytest.raises(PartError, match=message):
            heads.get("acme_head")
        assert registries.heads.get("pooled") is Pooled

    def test_a_class_may_be_decorated_and_announced(
        self, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registries.heads, "_parts", {**registries.heads._parts})
        source = HEAD_MODULE.format(name="Acme").replace(
            "@frozen",
            "import tlkit.parts.kinds as kinds\n@kinds.registries.heads.register('acme')\n@frozen",
        )
        install("acme", {"acme": "acme_mod:Acme"}, acme_mod=source)
        part = registries.heads.get("acme")
        assert registries.heads.get("acme") is part
        assert registries.heads.find("acme").source == "acme 1.2"
        assert unstructure(part(), registry=registries.heads) == {"name": "acme"}

    def test_a_class_may_be_announced_where_it_is_re_exported(
        self, heads: Registry[Head], install: Callable[..., None]
    ) -> None:
        install(
            "acme",
            {"acme": "acme_mod:Acme"},
            acme_mod="from acme_inner import Acme",
            acme_inner=HEAD_MODULE.format(name="Acme"),
        )
        part = heads.get("acme")
        assert heads.get("acme") is part  # the second time it is known, and its own entry point too
        assert unstructure(part(), registry=heads) == {"name": "acme"}


def test_a_module_that_cannot_be_imported_is_tried_again() -> None:
    found = Registry("tool", Tool, modules=("no_such_module",))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            found.names()


class TestPart:
    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for _, registry in registries.items():
            monkeypatch.setattr(registry, "_parts", dict(registry.registered()))

    def test_one_decorator_makes_a_part_of_the_kind_that_the_class_extends(self) -> None:
        @part("shift")
        class Shift(ClassWeights):
            first: float = field(default=1.0)
            by: float

            def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
                return dict.fromkeys(counts, self.first + self.by)

        assert registries.class_weights.get("shift") is Shift
        made = Shift(by=2)
        assert evolve(made, first=3.0) == Shift(first=3.0, by=2)
        assert unstructure(made, registry=registries.class_weights) == {
            "name": "shift", "first": 1.0, "by": 2}  # fmt: skip
        with pytest.raises(AttributeError):
            made.by = 3.0  # type: ignore[misc]  # it is frozen
        with pytest.raises(TypeError, match="positional"):
            Shift(1.0)  # type: ignore[call-arg]

    def test_a_class_that_attrs_has_made_already_stays_as_it_is(self) -> None:
        @frozen
        class Flat(ClassWeights):
            by: float

            def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
                return dict.fromkeys(counts, self.by)

        assert part("flat")(Flat) is Flat
        assert Flat(2).by == 2

    def test_a_class_of_no_kind_is_refused(self) -> None:
        with pytest.raises(PartError, match=r"^part 'x': must extend one of Dataset, .*got Stone$"):
            part("x")(Stone)

    def test_methods_by_their_old_names_work_with_a_warning(self) -> None:
        with pytest.warns(RenamedWarning, match=r"Falling\.rate: is now called learning_rate$"):

            @part("falling")
            class Falling(Schedule):
                def rate(
                    self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
                ) -> float:
                    return base / (1 + len(history))

        falling: Any = Falling()  # type: ignore[abstract]
        assert falling.learning_rate(1.0, 3, [{}]) == 0.5
        with pytest.warns(RenamedWarning, match=r"preprocess_") as caught:

            @part("old")
            class Old(OneConvolution):
                def native(self, images: Any) -> Any:
                    return images - 1

                def prepare(self, images: Any) -> Any:
                    return super().prepare(images) * 2  # type: ignore[misc]

        assert len(caught) == 2
        with pytest.warns(RenamedWarning, match=r"Old\.prepare: is now called preprocess_images$"):
            assert Old().preprocess_images(3) == 4

    def test_a_stage_s_multipliers_have_their_old_name_too(self) -> None:
        with pytest.warns(RenamedWarning, match=r"rates.*: is now called lr_multipliers$"):
            stage = Stage(2, rates=(0.0, 1.0))  # type: ignore[call-arg]
        assert stage == Stage(2, (0.0, 1.0))
        with pytest.warns(RenamedWarning, match=r"^Stage\.rates: is now called lr_multipliers$"):
            assert stage.rates == (0.0, 1.0)

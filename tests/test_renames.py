"""Old Python names: methods of callbacks and keywords work, each with a line of the new name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import tlkit
from tlkit.system.renames import renamed_keywords, renamed_methods


@renamed_methods(begins="on_begin", ends="on_end")
class Base:
    """A class whose methods were called `begins` and `ends` in the last release."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_begin(self, what: str) -> None:
        self.calls.append(f"base {what}")

    def on_end(self) -> None:
        self.calls.append("end")


def written_for_the_last_release() -> Any:
    class Own(Base):
        def begins(self, what: str) -> None:
            super().begins(what)  # type: ignore[misc]  # no stub has the old name
            self.calls.append(f"own {what}")

    return Own


def test_a_method_under_its_old_name_is_called_and_may_call_the_one_it_extends() -> None:
    with pytest.warns(tlkit.RenamedWarning, match=r"Own\.begins: is now called on_begin$") as seen:
        own = written_for_the_last_release()()
    assert seen[0].filename == __file__
    with pytest.warns(tlkit.RenamedWarning):
        own.on_begin("run")
    with pytest.warns(tlkit.RenamedWarning, match=r"Own\.ends: is now called on_end$"):
        own.ends()
    assert own.calls == ["base run", "own run", "end"]


def test_a_class_with_new_names_gets_no_warning() -> None:
    class Own(Base):
        def on_begin(self, what: str) -> None:
            super().on_begin(what)

    own = Own()
    own.on_begin("run")
    assert own.calls == ["base run"]


def test_a_callback_of_the_last_release_is_told_everything() -> None:
    old = {
        *("planned", "checking", "checked", "loaded", "resumed", "note", "computing"),
        *("stage_begins", "epoch_begins", "step_done", "epoch_done"),
    }
    heard: list[str] = []

    def method(name: str) -> Any:
        def call(self: Any, *args: Any) -> None:
            heard.append(name)

        return call

    with pytest.warns(tlkit.RenamedWarning):
        own: Any = type("Own", (tlkit.Callback,), {name: method(name) for name in old})()
    new = [name for name in vars(tlkit.Callback) if name.startswith("on_")]
    for newer in ("on_backbone_begin", "on_run_end"):
        new.remove(newer)
    for name in new:
        getattr(own, name)()
    assert len(new) == len(old)
    assert set(heard) == old


@pytest.mark.parametrize(
    "function", [tlkit.run, tlkit.resume, tlkit.lr_find, tlkit.sweep, tlkit.resume_sweep]
)
def test_watcher_is_now_called_callback(function: Any) -> None:
    assert "callback" in inspect.signature(function).parameters
    with (
        pytest.warns(tlkit.RenamedWarning, match=r"\(watcher=…\): is now called callback$"),
        pytest.raises(tlkit.TlkitError),
    ):
        function("nowhere", watcher=None)


def test_a_keyword_under_both_its_names_is_refused() -> None:
    @renamed_keywords(old="new")
    def function(*, new: int) -> int:
        return new

    call: Any = function
    with pytest.warns(tlkit.RenamedWarning):
        assert call(old=1) == call(new=1) == 1
    with pytest.raises(TypeError, match=r"^function\(\): old is now called new; give one of them$"):
        call(old=1, new=1)

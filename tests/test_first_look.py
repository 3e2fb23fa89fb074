"""The first look at a run's images: the same from processes, from threads and from a loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.pictures import noise, png
from tests.processes import output_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
SIDE, COUNT = 8, 520

HEAD = """
import itertools, os, sys
from pathlib import Path
from tlkit.data import first_look
from tlkit.data.first_look import FirstLook
from tlkit.data.images import Reader
from tlkit.data.pictures import DecodedImageIndex
from tlkit.data.pixel_store import PixelStore
from tlkit.data.root import ImageRoot
from tlkit.system.keras import own_process
images, cache = map(Path, sys.argv[1:])
root, names = ImageRoot(images), [f"{n:03}.png" for n in range(520)]
os.sched_getaffinity = lambda _: range(3)
processes, fork = [], os.fork
os.fork = lambda: processes.append(fork()) or processes[-1]

def look(cache, read=root.read):
    store, index = PixelStore(cache, names, 8), DecodedImageIndex(cache)
    before = len(processes)
    with FirstLook(names, read, index, Reader(read, 8, store=store)) as found:
        forked = len(processes) > before
        looks = [*found]
    return forked, looks, index.read(), [store.get(name) for name in names]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small pictures, two larger ones, a copy, a damaged and a missing one."""
    folder = tmp_path_factory.mktemp("looks")
    sizes = {7: (100, 90), 8: (400, 400)}
    for number in range(COUNT):
        seed = 30 if number == 31 else number
        content = png(noise(seed, *sizes.get(seed, (SIDE, SIDE + seed % 2))))
        if number != 44:
            (folder / f"{number:03}.png").write_bytes(content[: 40 if number == 20 else None])
    return folder


def test_processes_find_what_threads_find(images: Path, tmp_path: Path) -> None:
    found = output_of(
        HEAD,
        """
        _, *threads = look(cache / "threads")
        own_process()
        forked, *processes = look(cache / "processes")
        assert processes == threads
        looks, index, pixels = processes
        print(forked, [path for path, look in looks if look.problem])
        print(len(index), sum(content is not None for content in pixels))
        forked, looks, again, pixels = look(cache / "processes")  # now all are known
        print(forked, again == index, [*filter(None, pixels)])
        """,
        images,
        tmp_path,
    )
    # A copy is the same file, and is decoded twice: nobody knows beforehand.
    assert found == f"True ['020.png', '044.png']\n{COUNT - 3} {COUNT - 2}\nTrue True []\n"


def test_what_needs_more_than_a_process_may_take_is_decoded_here(
    images: Path, tmp_path: Path
) -> None:
    """In turn with nothing else, as in a thread: the limit is for all processes together."""
    found = output_of(
        HEAD,
        """
        here = os.getpid()
        def noted(image, real=first_look.picture_of):
            with open(cache / "large", "a") as file:
                file.write(f"{image.width} {os.getpid() == here}\\n")
            return real(image)
        first_look.picture_of = noted
        os.environ["TLKIT_DECODING_MB"] = "2"
        own_process()
        forked, looks, *_ = look(cache)
        print(forked, [path for path, look in looks if look.problem])
        """,
        images,
        tmp_path,
    )
    assert found == "True ['020.png', '044.png']\n"
    lines = (tmp_path / "large").read_text().splitlines()
    assert {line for line in lines if not line.startswith("90 ")} == {"400 True"}


@pytest.mark.parametrize(
    ("change", "forked"),
    [
        ("", True),
        ("read = lambda name: root.read(name)", False),  # may hold a file that is open
        ("del names[499:]", False),  # too few
        ("os.sched_getaffinity = lambda _: range(1)", False),
    ],
)
def test_when_processes_are_used(change: str, forked: bool, images: Path, tmp_path: Path) -> None:
    code = f"own_process(); read = root.read; {change}\nprint(look(cache, read)[0])"
    assert output_of(HEAD, code, images, tmp_path) == f"{forked}\n"


def test_a_look_that_ends_early_is_remembered_as_far_as_it_came(
    images: Path, tmp_path: Path
) -> None:
    found = output_of(
        HEAD,
        """
        own_process()
        index = DecodedImageIndex(cache)
        with FirstLook(names, root.read, index) as looks:
            some = [look for _, look in itertools.islice(looks, 10)]
        print(len(processes), {look.sha256 for look in some} <= index.read().keys())
        """,
        images,
        tmp_path,
    )
    assert found == "3 True\n"

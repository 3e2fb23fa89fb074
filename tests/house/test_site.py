"""The site: pages that people look for, a search that finds them first, no request elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.house.docs_hook import generated

ROOT = Path(__file__).parent.parent.parent
DOCS, SITE = ROOT / "docs", ROOT / "site"  # `make docs`, which `make test` begins with, builds it
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
INDEX = SITE / "search" / "search_index.json"
SCRIPT = Path(__file__).parent / "search_site.mjs"
NODE = shutil.which("node") or ""

LOOKED_FOR = {  # pages, each with what people type to find it
    "install": ["install", "gpu", "conda", "docker", "windows"],
    "tutorial": ["quick start"],
    "gallery": ["examples"],
    "cookbook": ["snippets"],
    "limits": ["multi-label", "object detection"],
    "glossary": ["glossary"],
    "faq": ["out of memory"],
    "cite": ["cite", "bibtex"],
    "roadmap": ["roadmap"],
    "howto/dataset": ["split my photos", "my own pictures", "train test split"],
    "howto/backbone": ["which network", "resnet"],
    "howto/recipe": ["recipe", "small dataset"],
    "howto/it-does-not-learn": ["does not learn"],
    "howto/early-stopping": ["early stopping", "overfitting"],
    "howto/imbalanced": ["class weights"],
    "howto/freeze": ["freeze layers"],
    "howto/stages": ["fine-tuning"],
    "howto/learning-rate": ["learning rate"],
    "howto/sweep": ["cross-validation"],
    "howto/deploy": ["deploy", "serve http"],
    "howto/machines": ["slurm", "several machines"],
    "howto/notebook": ["notebook", "jupyter", "pandas"],
    "howto/scikit-learn": ["sklearn"],
    "reference/results": ["confusion matrix"],
}


@pytest.mark.parametrize("page", LOOKED_FOR)
def test_a_page_that_people_look_for_is_there_and_in_the_menu(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^ +- .*: {page}\.md$", CONFIG), f"{page}.md is not in mkdocs.yml"
    assert re.match(r"---\ntags: \[.+\]\n---\n\n# ", text), f"{page}.md has no words to find it by"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the site's own search answers."""
    newest = max(path.stat().st_mtime for path in [*DOCS.rglob("*.md"), ROOT / "mkdocs.yml"])
    if not NODE or not INDEX.is_file() or INDEX.stat().st_mtime < newest:
        pytest.skip("needs node, and the site of these pages: make docs")
    queries = [query for queries in LOOKED_FOR.values() for query in queries]
    command = [NODE, str(SCRIPT), str(SITE), *queries]
    answer: dict[str, Any] = json.loads(subprocess.check_output(command, text=True, timeout=60))
    return answer


@pytest.mark.parametrize(
    ("query", "page"), [(query, page) for page, all_ in LOOKED_FOR.items() for query in all_]
)
def test_the_search_shows_the_page_first(query: str, page: str, found: dict[str, Any]) -> None:
    assert found[query][:1] == [page], f"first: {found[query][:3]}"


def test_the_citation_is_that_of_the_file() -> None:
    page = (DOCS / "cite.md").read_text(encoding="utf-8")
    for line in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(": ")
        if key in {"title", "version", "license", "  - name"}:
            assert value.strip('"') in page, key


def test_the_page_on_deploying_shows_the_whole_example() -> None:
    example = (ROOT / "examples" / "serve.py").read_text(encoding="utf-8")
    page = (DOCS / "howto" / "deploy.md").read_text(encoding="utf-8")
    assert example.partition('"""\n\n')[2] in page


def test_a_page_needs_no_other_server() -> None:
    """Fonts, GitHub's count of stars and statistics would be requests."""
    assert "\n  font: false" in CONFIG
    assert "analytics" not in CONFIG
    source = (DOCS / "overrides" / "partials" / "source.html").read_text(encoding="utf-8")
    assert "data-md-component" not in source
    style = (DOCS / "assets" / "extra.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", style)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://host.example/owner/tlkit.git", "https://host.example/owner/tlkit"),
        ("git@host.example:owner/tlkit.git", "https://host.example/owner/tlkit"),
        ("https://name:secret@host.example/owner/tlkit", "https://host.example/owner/tlkit"),
        ("/srv/tlkit", ""),
        ("", ""),
    ],
)
def test_the_repository_is_linked_without_a_password(remote: str, address: str) -> None:
    assert generated.web_address(remote) == address


@pytest.mark.parametrize("word", generated.REPOSITORY)
def test_what_needs_the_repository_s_address_never_invents_one(word: str) -> None:
    mark = f"<!-- repository: {word} -->"
    assert any(mark in path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")), mark
    without = generated.with_repository(mark, "")
    assert without == generated.REPOSITORY[word][1]
    assert without
    assert "{" not in without.replace("{url}", "?")
    assert "://" not in without
    known = generated.with_repository(mark, "https://github.com/owner/tlkit")
    assert "github.com/owner/tlkit" in known
    assert "{" not in known
    elsewhere = generated.with_repository(mark, "https://host.example/owner/tlkit")
    assert ("colab.research" in known) == (elsewhere == without)


@pytest.mark.slow
@pytest.mark.parametrize("remote", ["https://github.com/owner/tlkit.git", ""])
def test_pages_link_to_the_repository_that_they_are_cloned_from(
    tmp_path: Path, remote: str
) -> None:
    pytest.importorskip("mkdocs")
    subprocess.run(["git", "clone", "-q", str(ROOT), "clone"], cwd=tmp_path, check=True)
    command = ["remote", "set-url", "origin", remote] if remote else ["remote", "remove", "origin"]
    subprocess.run(["git", *command], cwd=tmp_path / "clone", check=True)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"]
    subprocess.run(build, cwd=tmp_path / "clone", check=True)
    pages = {
        page: (tmp_path / "clone" / "site" / page / "index.html").read_text(encoding="utf-8")
        for page in ("install", "howto/freeze", "howto/notebook")
    }
    address = "https://github.com/owner/tlkit"
    links = {
        "install": f"git clone {address}",
        "howto/freeze": f'href="{address}/edit/main/docs/howto/freeze.md"',
        "howto/notebook": "colab.research.google.com/github/owner/tlkit/blob/main/examples/",
    }
    for page, link in links.items():
        for text in (link, 'class="md-source', f'href="{address}/issues/new?template=idea.yml'):
            assert (text in re.sub("<[^>]*span[^>]*>", "", pages[page])) == bool(remote), text

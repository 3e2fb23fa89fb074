"""The site: pages that people look for, a search that finds them first, no request elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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

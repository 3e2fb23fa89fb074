"""The report: whole, harmless, the same every time, and its numbers are those of metrics.json."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from tests.finished_runs import HOSTILE, made_up

from tlkit.config.experiment import ModelCard
from tlkit.metrics.scores import OVERALL, PER_CLASS
from tlkit.reports.gallery import Gallery, Pair, Picture, data_url
from tlkit.reports.report import report
from tlkit.runfolder.record import RunRecord
from tlkit.runfolder.results import MetricsRecord

PAPER = {"source": "paper", "confusion": [[61, 36, 3], [3, 91, 6], [0, 3, 28]]}
TABLE_5 = {"source": "paper, Table 5", "accuracy": 0.869}


class Page(HTMLParser):
    """A page's elements, and its text outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, tag: str, name: str) -> list[str | None]:
        """Return an attribute of every element of a kind."""
        return [attrs.get(name) for found, attrs in self.elements if found == tag]


def some_pictures(run: RunRecord) -> Gallery:
    """Return a gallery with one grey picture for everything."""
    address = data_url(np.full((8, 8, 3), 100, np.uint8))
    wrong = next(one for one in run.judged if not one.right)
    right = next(one for one in run.judged if one.right)
    pair = Pair(wrong.label, wrong.predicted, 1, 9, (Picture(wrong, address),))
    return Gallery(
        worst=(Picture(wrong, address, address),),
        right=(Picture(right, address, address),),
        pairs=(pair,),
    )


@pytest.fixture(scope="module")
def run() -> RunRecord:
    return made_up(reference=[PAPER, TABLE_5])


@pytest.fixture(scope="module")
def text(run: RunRecord) -> str:
    return report(run, some_pictures(run))


def test_a_report_is_the_same_every_time(run: RunRecord, text: str) -> None:
    assert report(run, some_pictures(run)) == text


def test_its_numbers_are_those_of_the_metrics(run: RunRecord, text: str) -> None:
    """Each figure is there in full for programs, beside what is rounded for people."""
    values = {float(value or "nan") for value in Page(text).attributes("data", "value")}
    scores = run.scores
    expected = [getattr(scores, name) for name in OVERALL]
    expected += [getattr(one, name) for one in scores.per_class.values() for name in PER_CLASS]
    assert None not in expected
    assert set(expected) <= values
    for count in (count for row in scores.confusion for count in row):
        assert f">{count}<small>" in text


def test_nothing_is_fetched_and_nothing_runs(text: str) -> None:
    page = Page(text)
    for tag in ("script", "link", "iframe", "object", "embed", "form", "base"):
        assert not page.attributes(tag, "id"), tag
    sources = page.attributes("img", "src")
    assert sources
    assert all((source or "").startswith("data:image/jpeg;base64,") for source in sources)
    assert all((link or "").startswith("#") for link in page.attributes("a", "href"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|style=", text)


def test_its_policy_allows_only_its_own_style(text: str) -> None:
    (policy,) = [p for p in Page(text).attributes("meta", "content") if p and "default-src" in p]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_every_picture_says_what_it_shows(text: str) -> None:
    page = Page(text)
    assert all(page.attributes("img", "alt"))
    for tag, attrs in page.elements:
        if tag == "svg" and attrs.get("aria-hidden") != "true":
            assert attrs["role"] == "img"
            assert attrs.get("aria-label") or attrs.get("aria-labelledby")


def test_ids_are_unique_and_every_link_leads_somewhere(text: str) -> None:
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= set(page.attributes("a", "href"))


def test_published_results_stand_beside_ours_and_what_cannot_be_is_said(text: str) -> None:
    assert ">Published results</h2>" in text
    assert "86.9 % is not a share of 231 images" in text
    assert "within chance" in text


def test_without_references_there_is_no_such_section() -> None:
    assert "Published results" not in report(made_up(), Gallery(missing="they are gone"))


def test_what_the_study_says_stands_above_everything() -> None:
    run = made_up(card=ModelCard(not_for="Not for\n   diagnosis.", limits="One hospital only."))
    page = report(run, Gallery(missing="they are gone"))
    assert page.index("Not for diagnosis.") < page.index("<h1>")
    assert "One hospital only." in page
    assert "Not provided: intended use, data, labels, license, contact." in page
    assert "No images are shown: they are gone" in page


def test_names_from_strangers_appear_harmless() -> None:
    run = made_up(
        classes=HOSTILE,
        counts=(9, 9, 9, 9),
        name=HOSTILE[0],
        names="{split}/" + HOSTILE[1] + HOSTILE[2] + "{number}",
        source=HOSTILE[0],
        card=ModelCard(not_for=HOSTILE[1], contact=HOSTILE[2]),
        reference=[{"source": HOSTILE[1], "recall": {HOSTILE[0]: 0.5}}],
    )
    text = report(run, some_pictures(run))
    page = Page(text)
    assert not [tag for tag, attrs in page.elements if tag == "script" or "onerror" in attrs]
    shown = "".join(page.text)
    assert HOSTILE[0] in shown
    assert HOSTILE[3] in shown
    for character in "\u202e\x1b":
        assert character not in text
        assert character.encode("unicode_escape").decode() in shown
    assert all(
        "<" not in (alt or "") or "onerror" not in alt.split("<")[0]
        for alt in page.attributes("img", "alt")
        if alt
    )


def test_a_class_that_is_never_predicted_is_undefined_and_not_0() -> None:
    run = made_up(skill=0.0, counts=(200, 6, 5))
    table = run.metrics.as_json()
    table["test"]["per_class"]["covid-19"].update(precision=None, f1=0.0)
    table["test"]["per_class"]["covid-19"]["intervals"].update(precision=None, f1=None)
    run = evolve(run, metrics=MetricsRecord.from_json(table))
    text = report(run, Gallery(missing="they are gone"))
    row = r'covid-19</bdi></th><td class="num">undefined</td><td class="num"></td>'
    assert len(re.findall(row, text)) == 1  # its precision; its recall is 0


def test_a_class_with_a_threshold_is_shown_with_its_own_probability() -> None:
    run = made_up(counts=(3, 3, 3), skill=0)
    shares = {"normal": 0.7, "pneumonia": 0.1, "covid-19": 0.2}
    called = [evolve(one, predicted="covid-19", probabilities=shares) for one in run.judged]
    run = evolve(run, predictions={"test": tuple(called)})
    wrong = Gallery(worst=(Picture(next(one for one in called if not one.right), "data:,"),))
    text = " ".join(report(run, wrong).split())
    assert "classified as covid-19 with 20.0" in text
    assert "covid-19</bdi> 20.0 %, <bdi>normal</bdi> 70.0 %" in text


def test_very_many_classes_still_make_a_page() -> None:
    classes = [f"class {number}" for number in range(40)]
    text = report(made_up(classes, [3] * 40, skill=4), Gallery(missing="they are gone"))
    assert "too many classes to show the confusion matrix" in text
    assert len(text) < 2_000_000


def test_one_epoch_is_enough() -> None:
    assert 'id="chart-loss-title"' in report(made_up(epochs=1), Gallery(missing="they are gone"))


def test_the_template_has_no_path_of_this_machine(text: str) -> None:
    assert str(Path.home()) not in text
    assert str(Path(__file__).parent) not in text

"""A run in one HTML file: its figures, its misses with their pages, and nothing that others' words
could do."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser
from typer.testing import CliRunner, Result

from api.cli import app
from api.services import Services
from evals.report import Pages, draft_right, threshold_of, write_report
from evals.runs import Run, write_run
from pageglass.settings import load_settings
from tests.browser import Tab, chromium, needs_chromium
from tests.made_runs import Asked, outcome, run
from tests.tiny import pdf

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE = f'mill{SCRIPT.replace("/", "")}"><img src=x onerror=alert(1)>.pdf'
PLAIN = "log.pdf"
PAGES = ["The pump of the mill stands in hall 7.", "The pump was greased on 4 March.", "A yard."]


def cases(hostile: str = HOSTILE) -> dict[str, Asked]:
    return {
        "fine": Asked(PLAIN),
        "lost": Asked(
            PLAIN, gold=(3,), found=(1, 2), cited=(), evidence="A yard.", sources=("Chart", "Table")
        ),
        "evil": Asked(
            hostile,
            question=f"Why? {SCRIPT} $x^2$ {{{{ 7 * 7 }}}}",
            text=f"{SCRIPT}<b>bold</b>",
            answer=f"hall 7 {SCRIPT}",
            quote="pump of the mill",
            sources=(f'Text"><script>{SCRIPT}',),
            correct=False,
        ),
        "declined": Asked(hostile, declined=True, support=0.3, seconds=2.5),
        "made up": Asked(PLAIN, answerable=False, support=0.9),
        "none": Asked(PLAIN, answerable=False, support=0.2, declined=True),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the documents of `cases`."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "docs").mkdir()
    for name in (PLAIN, HOSTILE):
        pdf(folder / "docs" / name, [f"{text} {len(name)}" for text in PAGES])
    with Services(load_settings({"data_dir": folder / "data"}), command="test") as services:
        reports = list(services.ingest([folder / "docs"]))
        assert {report.outcome for report in reports} == {"indexed"}, reports
    return folder / "data"


@pytest.fixture(scope="module")
def ids(data: Path) -> dict[str, str]:
    with Services(load_settings({"data_dir": data}), command="test") as services:
        return {document.name: document.id for document in services.documents()}


@pytest.fixture(scope="module")
def made(ids: dict[str, str]) -> Run:
    return run(
        cases(),
        ids,
        excluded=(f"line 9: no document {SCRIPT!r}",),
        remarks=("line 3: no gold pages",),
        failed_documents=("broken.pdf: this is no PDF",),
    )


def report(run: Run, data: Path, target: Path, **more: object) -> str:
    with Pages(data) as pages:
        write_report(run, target, pages=pages, **more)  # pyright: ignore[reportArgumentType]
    return target.read_text("utf-8")


class Read(HTMLParser):
    """What is in a page: its elements, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] != [("style", {})]:
            self.text = " ".join(f"{self.text} {data}".split())

    def all(self, attribute: str) -> list[str]:
        return [found[attribute] for _, found in self.elements if attribute in found]


def test_others_words_stay_words_and_nothing_is_fetched(
    made: Run, data: Path, tmp_path: Path
) -> None:
    html = report(made, data, tmp_path / "report.html")
    read = Read(html)
    tags = Counter(tag for tag, _ in read.elements)
    assert not {"script", "iframe", "link", "object", "form", "b", "base"} & tags.keys()
    assert not [name for _, found in read.elements for name in found if name.startswith("on")]
    # Its own policy forbids scripts and the network.
    [policy] = [found["content"] for _, found in read.elements if "http-equiv" in found]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(src.startswith("data:image/webp;base64,") for src in read.all("src"))
    assert all(href.startswith("#") for href in read.all("href"))
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in re.sub(r'clip-path="url\(#[\w-]+\)"', "", html)
    # What was asked stands there as it was asked.
    assert f"Why? {SCRIPT} $x^2$ {{{{ 7 * 7 }}}}" in read.text
    assert HOSTILE in read.text
    assert f"{SCRIPT}<b>bold</b>" in read.text
    # Whatever links within the page finds its place, and no place is there twice.
    places = Counter(read.all("id"))
    assert [id for id, count in places.items() if count > 1] == []
    assert {href[1:] for href in read.all("href")} <= places.keys()


def test_the_figures_are_the_run_s(made: Run, data: Path, tmp_path: Path) -> None:
    flat = Read(report(made, data, tmp_path / "report.html")).text
    # Of four answerable cases three had their page among the first five.
    assert re.search(r"hit@5 ?0\.750", flat)
    assert "4 answerable, 2 unanswerable" in flat
    assert "1 case could not be used" in flat
    assert "1 document could not be indexed broken.pdf: this is no PDF" in flat
    assert "1 remark on the cases line 3: no gold pages" in flat
    assert "5 answers not judged, and so not scored" in flat
    assert "4 of 4 cases that failed, out of 6" in flat
    assert "The threshold in use, 0.5, is marked." in flat
    for cause in ("not retrieved", "cited but wrong", "wrongly declined", "not declined"):
        assert cause in flat
    for row in ("retriever:sparse", "retriever:dense", "fusion:rrf", "Chart", "Table"):
        assert row in flat
    assert "mean an answer" in flat
    assert "1,200" in flat
    # Figures of answers rest on cases of their own: two are unanswerable, four are not.
    assert re.search(r"declined answerable all 0\.500 [\d. to]+, n=2 0\.250 [\d. to]+, n=4", flat)


def test_misses_show_their_pages_with_quoted_words_marked(
    made: Run, data: Path, tmp_path: Path
) -> None:
    html = report(made, data, tmp_path / "report.html")
    evil = html.partition('id="miss-2"')[2].partition("</article>")[0]
    read = Read(evil)
    # The gold page, and three found ones, of which the document has three.
    pictures = [src.partition(",")[2] for src in read.all("src")]
    assert len(pictures) == 4
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures}
    assert all(max(size) == 1000 for size in sizes)
    assert "Page 1 of mill" in read.text
    assert "wrong, says tests/judge" in read.text
    marks = [style for style in read.all("style") if style.startswith("left:")]
    # The words stand on page 1, which is shown twice.
    assert len(marks) == 2
    left, top, width, height = (float(n) for n in re.findall(r"[\d.]+", marks[0]))
    assert 10 < left < 30
    assert 5 < top < 20
    assert 10 < width < 40
    assert 0 < height < 5
    # What a case gives as evidence is marked on its gold page alone, found or not.
    lost = Read(html.partition('id="miss-1"')[2].partition("</article>")[0])
    assert len([style for style in lost.all("style") if style.startswith("left:")]) == 1


def test_what_is_not_there_or_would_be_too_much_is_said(
    made: Run, data: Path, tmp_path: Path
) -> None:
    nowhere = report(made, tmp_path / "no-data", tmp_path / "a.html")
    assert "no image of this page" in nowhere
    assert "data:image" not in nowhere
    assert not (tmp_path / "no-data").exists()
    few = report(made, data, tmp_path / "b.html", misses=1)
    assert few.count("<article") == 1
    assert "3 more went wrong than are shown (--misses)" in few
    none = report(made, data, tmp_path / "c.html", misses=0)
    assert "<article" not in none
    assert "None is shown." in none
    with Pages(data, most_bytes=10_000) as pages:
        write_report(made, tmp_path / "d.html", pages=pages)
        left_out = pages.left_out
    small = (tmp_path / "d.html").read_text("utf-8")
    assert (
        0
        < small.count("data:image/webp")
        < report(made, data, tmp_path / "e.html").count("data:image/webp")
    )
    assert f"{left_out} page images left out" in small
    assert (tmp_path / "d.html").stat().st_size < 10_000 + len(nowhere)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"a": Asked(PLAIN, answerable=False, support=None)},
        {"a": Asked(PLAIN, support=None)},
        {"a": Asked(PLAIN, support=0.4, declined=True, answer=None)},
        {"a": Asked(PLAIN, gold=(), found=())},
    ],
    ids=["no cases", "unanswerable only", "searched only", "declined only", "no gold pages"],
)
def test_a_run_that_lacks_something_has_a_report_all_the_same(
    asked: dict[str, Asked], tmp_path: Path
) -> None:
    html = report(run(asked), tmp_path, tmp_path / "report.html")
    assert "</html>" in html
    assert not re.search(r"\bnan\b", Read(html).text)


def test_the_same_run_gives_the_same_file(made: Run, data: Path, tmp_path: Path) -> None:
    assert report(made, data, tmp_path / "a.html") == report(made, data, tmp_path / "b.html")


def test_the_threshold_is_the_one_by_which_answers_were_declined() -> None:
    def of(threshold: object, *asked: tuple[float, bool]) -> float | None:
        answers = {
            f"c{n}": Asked(PLAIN, support=support, declined=declined)
            for n, (support, declined) in enumerate(asked)
        }
        return threshold_of(run(answers, settings=threshold))

    nested = {"answer": {"threshold": 0.5}}
    assert of(nested, (0.4, True), (0.6, False)) == 0.5
    assert of({"answer.threshold": 0.5}, (0.4, True), (0.6, False)) == 0.5
    # A collection with a threshold of its own: the setting did not decide.
    assert of(nested, (0.6, True), (0.8, False)) == 0.8
    assert of(nested, (0.1, True), (0.3, False)) == 0.3
    assert of({}, (0.4, True)) is None
    assert threshold_of(run({})) is None


def test_a_draft_is_right_by_the_gold_value_and_never_where_there_is_none() -> None:
    def of(asked: Asked) -> float | None:
        return draft_right(outcome("a", asked, {PLAIN: "d"}))

    assert of(Asked(PLAIN, text="hall 7")) == 1
    assert of(Asked(PLAIN, text="hall 7", declined=True)) == 1
    assert of(Asked(PLAIN, text="nowhere at all")) == 0
    assert of(Asked(PLAIN, answerable=False)) == 0
    assert of(Asked(PLAIN, text="")) is None
    assert of(Asked(PLAIN, support=None)) is None


# The command


def reported(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


def test_the_command_writes_one_file_and_says_how_large(
    made: Run, data: Path, tmp_path: Path
) -> None:
    path, old, other = (tmp_path / f"{name}.json" for name in ("run", "old", "other"))
    write_run(made, path)
    worse = {id: Asked(a.document, found=(2, 3), gold=a.gold) for id, a in cases().items()}
    write_run(run(worse), other)
    write_run(
        made.model_copy(
            update={
                "outcomes": tuple(
                    o.model_copy(update={"rankings": o.rankings | {"search": ()}})
                    for o in made.outcomes
                )
            }
        ),
        old,
    )
    out = tmp_path / "deep" / "report.html"
    done = reported("--data-dir", data, "eval", "report", path, "--out", out, "--compare", old)
    assert done.exit_code == 0, done.output
    assert re.search(r"report\.html: [\d.]+ MB, 4 misses shown", " ".join(done.stdout.split()))
    text = Read(out.read_text("utf-8")).text
    assert re.search(r"hit@5 0\.000 0\.750 \+0\.750", text)
    assert "too few documents" in text
    told = reported("--data-dir", data, "eval", "report", path, "--out", out, "--json")
    assert json.loads(told.stdout) == {
        "file": str(out),
        "bytes": out.stat().st_size,
        "misses": 4,
    }
    for args, code, message in (
        ((path, "--out", tmp_path), 2, "is a folder"),
        ((path, "--compare", other), 1, "cases were changed since"),
        ((tmp_path / "none.json",), 2, "none.json"),
        ((path, "--misses", "-1"), 2, "--misses"),
    ):
        failed = reported("--data-dir", data, "eval", "report", *args)
        assert (failed.exit_code, message in failed.stderr) == (code, True), failed.stderr


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_network_and_everybody_can_read_it(
    browser: Browser, made: Run, data: Path, tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "report.html"
    report(made, data, path)
    tab = Tab(browser, color_scheme=scheme, viewport={"width": 1200, "height": 900})
    try:
        tab.page.goto(path.as_uri())
        assert tab.page.title() == "Evaluation of cases.jsonl"
        assert tab.page.locator("article").count() == 4
        tab.page.locator("article img").first.scroll_into_view_if_needed()
        assert tab.page.evaluate(
            "Promise.all([...document.images].map(i => (i.loading = 'eager', i.decode())))"
            ".then(all => all.length)"
        )
        found = Axe().run(tab.page).response["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []
        assert {url for url in tab.requests if not url.startswith("data:")} == {path.as_uri()}
        assert tab.problems() == []
    finally:
        tab.close()


@needs_chromium
def test_a_phone_shows_it_without_scrolling_sideways_and_enlarges_pages(
    browser: Browser, made: Run, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    report(made, data, path)
    tab = Tab(browser, viewport={"width": 360, "height": 740})
    try:
        tab.page.goto(path.as_uri())
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        sheet = tab.page.locator("#miss-1-gold-0")
        before = sheet.locator("img").bounding_box()
        sheet.locator("a.paper").click()
        after = sheet.locator("img").bounding_box()
        assert before is not None
        assert after is not None
        assert after["width"] > 1.2 * before["width"]
        sheet.get_by_text("Close").click()
        assert tab.page.locator("#miss-1").is_visible()
        assert not sheet.get_by_text("Close").is_visible()
    finally:
        tab.close()

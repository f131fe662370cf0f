"""The page on which cases are reviewed: its HTTP side, and itself in a real Chromium."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from api.services import Services
from evals.cases import Case, Shelf, listed_cases, read_cases, replace_case, write_cases
from evals.review import Decision, _shown, decide, rejected_file
from pageglass.settings import load_settings
from pageglass.types import Document
from tests.browser import Tab, chromium, needs_chromium, site
from tests.tiny import pdf

ROOT = Path(__file__).parents[1]
TREE = "The city planted 312 lime trees along the canal in the autumn of 2022."
PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry."
HOSTILE = '<img src=x onerror="window.pwned=1">'


@dataclass(frozen=True)
class Reviewing:
    """A running `pageglass eval review`."""

    file: Path
    address: str
    process: subprocess.Popen[str]

    @property
    def cases(self) -> list[Case]:
        return listed_cases(self.file)

    @property
    def rejected(self) -> list[str]:
        return [case.id for case in listed_cases(rejected_file(self.file))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    files = [
        pdf(folder / "log.pdf", [PUMP, TREE, "Nothing else was noted that year."]),
        pdf(folder / "annex.pdf", ["The annex is empty but for this line, which says so."]),
    ]
    settings = load_settings({"data_dir": folder / "data", "ingest": {"workers": 1}})
    with Services(settings, command="test") as services:
        list(services.ingest(files))
    return folder / "data"


@contextmanager
def reviewing(folder: Path, file: Path) -> Generator[Reviewing]:
    others = {name: v for name, v in os.environ.items() if not name.startswith("PAGEGLASS_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from api.cli import main\nmain()"),
            *("--data-dir", str(folder), "eval", "review", str(file)),
        ],
        cwd=ROOT,
        env={**others, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", said)
        assert found, said + (process.stderr.read() if process.stderr else "")
        yield Reviewing(file, found[0], process)
    finally:
        process.kill()
        process.communicate()


def case(id: str, **more: object) -> Case:
    fields: dict[str, object] = {
        "id": id,
        "question": f"Question {id}?",
        "document": "log.pdf",
        "pages": (2,),
        "answer": "312",
        "quote": "312 lime trees",
        "origin": "proposed",
    }
    return Case.model_validate(fields | more)


CASES = [
    case("a", question="How many lime trees were planted?"),
    case("b", pages=(1,), quote="its bearing ran dry", answer="dry bearing"),
    case("c", answerable=False, pages=(), answer=None, quote="", origin="logged"),
    case("mine", origin=""),
]


@pytest.fixture
def review(folder: Path, tmp_path: Path) -> Iterator[Reviewing]:
    file = tmp_path / "cases.jsonl"
    write_cases(file, CASES)
    with reviewing(folder, file) as running:
        yield running


def decision(id: str, state: str = "accepted", **more: object) -> dict[str, object]:
    fields: dict[str, object] = {"id": id, "state": state, "question": f"Question {id}?"}
    fields |= {"answerable": True, "pages": [2], "answer": "312", "quote": "312 lime trees"}
    return fields | {"document": "log.pdf"} | more


# What a decision does


@pytest.mark.parametrize(
    ("answer", "left", "now"),
    [
        (("312", "40"), "312\n40", ("312", "40")),
        (("312", "40"), "312\n\n 41 \n", ("312", "41")),
        (("312", "40"), " ", None),
        (("312",), "312", ("312",)),
        ("312", "312\n40", "312\n40"),
    ],
)
def test_a_list_is_edited_line_by_line_and_stays_a_list(
    tmp_path: Path,
    answer: str | tuple[str, ...],
    left: str,
    now: str | tuple[str, ...] | None,
) -> None:
    file = tmp_path / "cases.jsonl"
    old = case("a", answer=answer, scale="million", derivation="312 + 40", answer_format="List")
    write_cases(file, [old])
    shelf = Shelf.of([document("d1", "log.pdf")])
    seen = _shown(old, "open", shelf)
    assert seen["answer"] == (answer if isinstance(answer, str) else "\n".join(answer))
    decide(
        file,
        Decision.model_validate(decision("a", answer=left, document="d1")),
        shelf,
    )
    (kept,) = listed_cases(file)
    assert (kept.answer, kept.scale, kept.reviewed) == (now, "million", True)
    # Both are of the answer that was there.
    same = now == answer
    assert (kept.derivation, kept.answer_format) == (("312 + 40", "List") if same else ("", ""))


def document(id: str, name: str, pages: int = 3) -> Document:
    return Document(id, "default", id, name, (name,), pages, pages, "indexed", None, "2026")


SHELF = Shelf.of([document("d0", "log.pdf"), document("d1", "annex.pdf", 1)])


def decided(file: Path, **more: Any) -> str:
    given = decision(**({"document": "d0"} | more))
    try:
        return decide(file, Decision.model_validate(given), SHELF)[1]
    except Exception as error:
        return str(error)


def test_a_decision_moves_a_case_between_the_files_and_back(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, CASES)
    assert decided(file, id="a", question=" How many? ", pages=[3, 2, 3]) == "accepted"
    assert decided(file, id="b", state="rejected", question="edited") == "rejected"
    cases = {case.id: case for case in listed_cases(file)}
    assert list(cases) == ["a", "c", "mine"]
    assert (cases["a"].question, cases["a"].pages) == ("How many?", (2, 3))
    assert cases["a"].reviewed
    # As it was proposed: that must not be proposed again.
    assert listed_cases(rejected_file(file)) == [CASES[1]]
    assert decided(file, id="b") == "accepted"
    assert [case.id for case in listed_cases(file)] == ["a", "c", "mine", "b"]
    assert listed_cases(rejected_file(file)) == []
    assert len(read_cases(file, SHELF).remarks) == 1  # "c" is still open


def test_a_decision_that_was_cut_short_can_be_taken_again(tmp_path: Path) -> None:
    """Between writing into one file and out of the other."""
    file = tmp_path / "cases.jsonl"
    write_cases(file, CASES)
    write_cases(rejected_file(file), [CASES[0]])
    assert decided(file, id="a", state="rejected") == "rejected"
    assert "a" not in [case.id for case in listed_cases(file)]
    assert [case.id for case in listed_cases(rejected_file(file))] == ["a"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pages": [4]}, "log.pdf has no page 4: it has 3 pages"),
        ({"pages": [0]}, "has no page 0"),
        ({"pages": []}, "name the pages that answer it"),
        ({"question": " "}, "the question is empty"),
        ({"document": "d9"}, "no document 'd9'"),
        ({"document": "d1"}, "annex.pdf has no page 2"),
        ({"id": "gone"}, "no case with the id 'gone' any more"),
    ],
)
def test_what_cannot_be_accepted_says_why_and_changes_nothing(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, CASES)
    before = file.read_bytes()
    assert reason in decided(file, **({"id": "a"} | changed))
    assert file.read_bytes() == before
    assert not rejected_file(file).exists()


def test_without_an_answer_nothing_is_gold(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, CASES)
    assert decided(file, id="a", answerable=False) == "accepted"
    changed = listed_cases(file)[0]
    assert (changed.pages, changed.answer, changed.quote) == ((), None, "")


def test_rejecting_brings_no_hidden_line_to_life(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    lines = [case("a"), case("b"), case("a", question="Hidden?")]
    file.write_text("".join(f"{each.model_dump_json()}\n" for each in lines))
    before = file.read_bytes()
    for state in ("rejected", "accepted"):
        assert "stands on lines 1, 3 of cases.jsonl" in decided(file, id="a", state=state)
    assert file.read_bytes() == before
    assert not rejected_file(file).exists()


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({}, "Int"),
        ({"answer": "312 trees"}, ""),
        ({"answerable": False}, ""),
        ({"pages": [3]}, "Int"),
    ],
)
def test_another_answer_has_not_the_format_of_the_old_one(
    tmp_path: Path, changed: dict[str, Any], left: str
) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, [case("a", answer_format="Int")])
    assert decided(file, **({"id": "a"} | changed)) == "accepted"
    assert listed_cases(file)[0].answer_format == left


def test_accepted_and_rejected_at_once_a_case_stands_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    for _ in range(10):
        write_cases(file, CASES)
        rejected_file(file).unlink(missing_ok=True)
        states = ["accepted", "rejected"] * 3
        with ThreadPoolExecutor(len(states)) as pool:
            taken = [pool.submit(decided, file, id="a", state=state) for state in states]
            done = [each.result() for each in taken]
        assert done == states
        ids = [case.id for case in (*listed_cases(file), *listed_cases(rejected_file(file)))]
        assert sorted(ids) == ["a", "b", "c", "mine"]


# The server


def test_the_server_shows_the_page_with_the_quote_and_takes_decisions(review: Reviewing) -> None:
    with httpx.Client(base_url=review.address, trust_env=False) as http:
        told = http.get("cases").json()
        assert [(c["id"], c["state"]) for c in told["cases"]] == [
            ("a", "open"),
            ("b", "open"),
            ("c", "open"),
            ("mine", "accepted"),
        ]
        log = next(d for d in told["documents"] if d["called"] == "log.pdf")
        assert log["pages"] == 3
        assert told["cases"][0]["document_id"] == log["id"]
        marked = http.get(f"pages/{log['id']}/2", params={"quote": "312 lime trees"})
        assert marked.headers["X-Quote"] == "found"
        assert yellow(marked.content) > 200
        plain = http.get(f"pages/{log['id']}/1", params={"quote": "312 lime trees"})
        assert plain.headers["X-Quote"] == "missing"
        assert yellow(plain.content) == 0
        assert http.get(f"pages/{log['id']}/9").status_code == 404
        for number in ("0", "-1", "9" * 23):
            assert http.get(f"pages/{log['id']}/{number}").status_code == 404
        taken = http.post("decisions", json=decision("a", document=log["id"]))
        assert taken.json()["state"] == "accepted"
        assert review.cases[0].reviewed
        refused = http.post("decisions", json=decision("b", document=log["id"], pages=[7]))
        assert refused.status_code == 422
        assert "log.pdf has no page 7" in refused.json()["detail"]
        for bad in ({"id": "a"}, decision("a", pages=["2"]), decision("a", more=1), []):
            assert http.post("decisions", json=bad).status_code == 422
        large = http.post("decisions", json=decision("a", quote="x" * (2 << 20)))
        assert large.status_code == 413


def test_what_was_changed_elsewhere_is_not_overwritten(review: Reviewing) -> None:
    with httpx.Client(base_url=review.address, trust_env=False) as http:
        told = http.get("cases").json()
        log = next(d["id"] for d in told["documents"] if d["called"] == "log.pdf")
        version = told["cases"][0]["version"]
        given = decision("a", document=log, version=version)
        first = http.post("decisions", json=given | {"question": "Newer?"})
        assert first.json()["version"] != version
        for state in ("accepted", "rejected"):
            stale = http.post("decisions", json=given | {"state": state})
            assert stale.status_code == 409
            assert "changed elsewhere" in stale.json()["detail"]
        assert review.cases[0].question == "Newer?"
        assert review.rejected == []
        again = given | {"state": "rejected", "version": first.json()["version"]}
        assert http.post("decisions", json=again).json()["state"] == "rejected"
        assert http.post("decisions", json=again).status_code == 409


def yellow(image: bytes) -> int:
    """Pixels as a marker makes them."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return int(((red > 220) & (green > 200) & (blue < 130)).sum())


def test_nobody_else_gets_in(review: Reviewing) -> None:
    root, _, token = review.address.rstrip("/").rpartition("/")
    with httpx.Client(trust_env=False) as http:
        for path in ("", "/", "/cases", f"/{'x' * len(token)}/cases", f"/{token[:-1]}/cases"):
            assert http.get(root + path).status_code == 404
        port = httpx.URL(root).port
        named = http.get(f"{root}/{token}/cases", headers={"Host": f"evil.example:{port}"})
        assert named.status_code == 403
        crossed = http.post(
            f"{root}/{token}/decisions",
            json=decision("a", "rejected"),
            headers={"Origin": "http://evil.example"},
        )
        assert crossed.status_code == 403
        assert http.get(f"{root}/{token}/../cases.py").status_code == 404
        page = http.get(review.address)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
    assert review.rejected == []


def test_ctrl_c_ends_it_and_a_new_start_goes_on(folder: Path, review: Reviewing) -> None:
    httpx.post(f"{review.address}decisions", json=decision("a", "rejected"), trust_env=False)
    review.process.send_signal(signal.SIGINT)
    assert review.process.wait(timeout=30) == 130
    with reviewing(folder, review.file) as again:
        assert again.address != review.address
        cases = httpx.get(f"{again.address}cases", trust_env=False).json()["cases"]
    assert [c["id"] for c in cases if c["state"] == "open"] == ["b", "c"]
    assert [c["id"] for c in cases if c["state"] == "rejected"] == ["a"]


def test_a_file_that_is_not_there_says_what_makes_one(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from api.cli import main\nmain()"),
            *("--data-dir", str(folder), "eval", "review", str(tmp_path / "none.jsonl")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no such file" in done.stderr


# The page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, review: Reviewing) -> Iterator[Tab]:
    tab = Tab(browser, viewport={"width": 1280, "height": 900})
    tab.page.goto(review.address)
    expect(tab.page.locator("#question")).to_have_value(CASES[0].question)
    yield tab
    tab.close()


def wait_for_image(page: Page) -> None:
    expect(page.locator("#image")).to_have_attribute("src", re.compile("^blob:"))
    expect(page.locator("#image")).to_have_js_property("complete", True)
    assert page.evaluate("document.getElementById('image').naturalWidth") > 0


@needs_chromium
def test_cases_are_decided_by_keys_alone(tab: Tab, review: Reviewing) -> None:
    page = tab.page
    expect(page.locator("#progress")).to_have_text("Case 1 of 4, 3 to decide")
    expect(page.locator("#mark")).to_have_text("The quote is marked.")
    wait_for_image(page)
    if to := os.environ.get("REVIEW_SCREENSHOT"):
        page.screenshot(path=to)
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" And when?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#question")).to_have_value("Question b?")
    assert review.cases[0].question == f"{CASES[0].question} And when?"
    assert review.cases[0].reviewed
    page.keyboard.press("r")
    expect(page.locator("#question")).to_have_value("Question c?")
    assert review.rejected == ["b"]
    expect(page.locator("#answered")).to_be_hidden()
    page.keyboard.press("a")
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#progress")).to_contain_text("0 to decide")
    assert [(c.id, c.open) for c in review.cases] == [("a", False), ("c", False), ("mine", False)]
    assert tab.problems() == []
    assert all(url.startswith(("http://127.0.0.1", "blob:", "data:")) for url in tab.requests)


@needs_chromium
def test_pages_are_turned_and_marked_as_gold(tab: Tab, review: Reviewing) -> None:
    page = tab.page
    expect(page.locator("#page-name")).to_have_text("log.pdf, page 2 of 3")
    expect(page.locator("#gold")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#page-name")).to_have_text("log.pdf, page 3 of 3")
    expect(page.locator("#mark")).to_have_text("The quote does not stand on this page.")
    page.keyboard.press("g")
    expect(page.locator("#pages")).to_have_value("2, 3")
    page.keyboard.press("j")
    expect(page.locator("#question")).to_have_value("Question b?")
    page.keyboard.press("k")
    expect(page.locator("#pages")).to_have_value("2, 3")  # What was typed is kept meanwhile.
    page.locator("#accept").click()
    expect(page.locator("#question")).to_have_value("Question b?")
    assert review.cases[0].pages == (2, 3)


@needs_chromium
def test_what_cannot_be_saved_is_said_and_stays(tab: Tab, review: Reviewing) -> None:
    page = tab.page
    page.locator("#pages").fill("9")
    page.locator("#accept").click()
    expect(page.locator("#problem")).to_have_text("log.pdf has no page 9: it has 3 pages")
    expect(page.locator("#pages")).to_have_value("9")
    page.locator("#answerable").uncheck()
    page.locator("#accept").click()
    expect(page.locator("#question")).to_have_value("Question b?")
    assert not review.cases[0].answerable


@needs_chromium
def test_keys_are_the_same_with_shift_and_in_a_checkbox(tab: Tab, review: Reviewing) -> None:
    page = tab.page
    page.locator("#answerable").focus()
    page.keyboard.press("j")
    expect(page.locator("#question")).to_have_value("Question b?")
    page.keyboard.press("Shift+K")
    expect(page.locator("#question")).to_have_value(CASES[0].question)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#page-name")).to_have_text("log.pdf, page 3 of 3")
    page.keyboard.press("Shift+G")
    expect(page.locator("#pages")).to_have_value("2, 3")
    page.keyboard.press("Shift+A")
    expect(page.locator("#question")).to_have_value("Question b?")
    assert review.cases[0].pages == (2, 3)
    page.locator("#answerable").focus()
    page.keyboard.press("Shift+R")
    expect(page.locator("#question")).to_have_value("Question c?")
    assert review.rejected == ["b"]


@needs_chromium
@pytest.mark.parametrize("written", ["-3", "2-3", "p3", "2, 3.0", "9" * 23])
def test_what_is_no_page_number_is_not_taken_for_one(
    tab: Tab, review: Reviewing, written: str
) -> None:
    page = tab.page
    page.locator("#pages").fill(written)
    page.locator("#accept").click()
    expect(page.locator("#problem")).to_contain_text("is no page: write their numbers")
    page.locator("#gold").click()
    expect(page.locator("#pages")).to_have_value(written)
    assert review.cases == CASES


@needs_chromium
def test_a_case_that_was_changed_elsewhere_is_shown_anew(tab: Tab, review: Reviewing) -> None:
    page = tab.page
    newer = CASES[0].model_copy(update={"question": "Newer?"})
    replace_case(review.file, "a", newer)
    page.locator("#answer").fill("older")
    page.locator("#accept").click()
    expect(page.locator("#problem")).to_contain_text("changed elsewhere meanwhile")
    expect(page.locator("#question")).to_have_value("Newer?")
    expect(page.locator("#answer")).to_have_value("312")
    assert review.cases[0] == newer
    page.locator("#accept").click()
    expect(page.locator("#question")).to_have_value("Question b?")
    assert review.cases[0].reviewed


@needs_chromium
def test_text_of_a_case_is_never_markup(folder: Path, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, [case("x", question=HOSTILE, quote=HOSTILE, document=HOSTILE)])
    with reviewing(folder, file) as review:
        tab = Tab(browser)
        tab.page.goto(review.address)
        expect(tab.page.locator("#question")).to_have_value(HOSTILE)
        expect(tab.page.locator("#problem")).to_contain_text(HOSTILE)
        tab.page.locator("#document").select_option("log.pdf")
        expect(tab.page.locator("#page-name")).to_have_text("log.pdf, page 1 of 3")
        assert tab.page.evaluate("window.pwned") is None
        assert tab.problems() == []
        tab.forget()
        tab.close()


@needs_chromium
def test_another_site_cannot_drive_it(browser: Browser, review: Reviewing, tmp_path: Path) -> None:
    """Not even one that knows the address."""
    elsewhere = tmp_path / "site"
    elsewhere.mkdir()
    (elsewhere / "index.html").write_text("<!doctype html><title>x</title>")
    with site(elsewhere, {}) as address:
        tab = Tab(browser)
        tab.page.goto(address)
        send = """async ([url, body]) => {
            const outcomes = [];
            for (const mode of ["cors", "no-cors"])
                try {
                    const options = {method: "POST", mode, body,
                        headers: mode === "cors" ? {"Content-Type": "application/json"} : {}};
                    outcomes.push((await fetch(url, options)).type);
                } catch (error) { outcomes.push("refused"); }
            return outcomes;
        }"""
        body = json.dumps(decision("a", "rejected"))
        assert tab.page.evaluate(send, [f"{review.address}decisions", body])[0] == "refused"
        read = "url => fetch(url).then(r => r.text()).catch(() => 'refused')"
        assert tab.page.evaluate(read, f"{review.address}cases") == "refused"
        tab.close()
    assert review.rejected == []
    assert review.cases == CASES


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_by_everybody(
    browser: Browser, review: Reviewing, scheme: str, tmp_path: Path
) -> None:
    tab = Tab(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab.page.goto(review.address)
    wait_for_image(tab.page)
    found = Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    wide = tab.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide
    tab.close()


def test_what_the_page_is_made_of_is_in_the_package() -> None:
    assert {path.name for path in (ROOT / "evals" / "web").iterdir()} == {
        "index.html",
        "review.css",
        "review.js",
    }
    script = (ROOT / "evals" / "web" / "review.js").read_text()
    assert "innerHTML" not in script
    assert "://" not in script


def test_threads_may_decide_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    write_cases(file, [case(str(n)) for n in range(12)])
    threads = [
        threading.Thread(
            target=decided,
            args=(file,),
            kwargs={"id": str(n), "state": "rejected" if n % 2 else "accepted"},
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {c.id for c in listed_cases(file)} == {str(n) for n in range(0, 12, 2)}
    assert all(c.reviewed for c in listed_cases(file))
    assert {c.id for c in listed_cases(rejected_file(file))} == {str(n) for n in range(1, 12, 2)}

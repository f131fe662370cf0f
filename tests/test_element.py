"""The search page and the element, in a real Chromium against a real server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from api.services import Services
from pageglass.settings import load_settings
from tests.browser import Tab, chromium, needs_chromium, site
from tests.test_app import serving
from tests.tiny import pdf

pytestmark = needs_chromium

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PHONE: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "device_scale_factor": 2}

FERRY = (
    "The ferry leaves the northern pier at six, unless fog closes the harbour first.",
    "Tickets cost twelve euros for adults and seven euros for children under fourteen.",
    "Dogs travel free of charge, but they must be kept on a lead on the upper deck.",
)
COPY = (FERRY[0], "This second page makes a different file of the copy of the timetable.")
TURBINE = ("Turbine 7 was stopped when the bearing temperature passed 92 degrees Celsius.",)
HOSTILE_NAME = '<img src=x onerror="window.pwned=1">.pdf'
HOSTILE = (
    "<script>window.pwned = 1</script> The lighthouse at Skerrin was painted red and white. "
    "[Click here](javascript:window.pwned=1) <b>http://evil.example/</b>",
)
FERRY_QUESTION = "When does the ferry leave the northern pier?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder that another site serves, and that site's address."""
    folder = tmp_path_factory.mktemp("elsewhere")
    policy = (
        "default-src 'none'; script-src http://127.0.0.1:*; connect-src http://127.0.0.1:*; "
        "img-src blob:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    with site(folder, {"Content-Security-Policy": policy}) as address:
        yield folder, address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, elsewhere: tuple[Path, str]) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("element")
    settings = load_settings({"data_dir": folder / "data", "server": {"origins": [elsewhere[1]]}})
    documents = {
        "default": [
            pdf(folder / "ferry.pdf", FERRY),
            pdf(folder / "copy.pdf", COPY),
            pdf(folder / HOSTILE_NAME, HOSTILE),
        ],
        "plants": [pdf(folder / "turbine.pdf", TURBINE)],
    }
    with Services(settings, command="test") as services:
        for collection, paths in documents.items():
            for report in services.ingest(paths, collection=collection):
                assert report.outcome == "indexed", report.reason
        services.start_worker()
        with serving(services) as address:
            yield address


OpenTab = Callable[..., Tab]


@pytest.fixture
def tabs(browser: Browser) -> Iterator[OpenTab]:
    """Opens addresses in tabs; at the end, nothing may have gone wrong in any of them."""
    opened: list[Tab] = []

    def open_tab(address: str, **options: Any) -> Tab:
        tab = Tab(browser, **options)
        opened.append(tab)
        tab.page.goto(address)
        return tab

    yield open_tab
    for tab in opened:
        problems = tab.problems()
        tab.close()
        assert problems == []


def ask(page: Page, question: str) -> None:
    box = page.get_by_role("search").get_by_role("textbox")
    box.fill(question)
    box.press("Enter")
    expect(page.locator(".answered, .unverified, .not_found, .problem:visible")).to_be_visible()


def thumbnails(page: Page) -> Locator:
    return page.get_by_role("region", name="Pages found").get_by_role("button")


def viewer(page: Page) -> Locator:
    return page.get_by_role("dialog")


def shown_width(picture: Locator) -> float:
    box = picture.bounding_box()
    assert box is not None
    return box["width"]


def loaded(picture: Locator) -> None:
    """Wait until the picture is there, from a blob of the page's own."""
    expect(picture).to_have_attribute("src", re.compile("^blob:"))
    expect(picture).to_have_js_property("complete", value=True)
    assert picture.evaluate("(img) => img.naturalWidth") > 100


# Files


def test_the_element_is_one_small_file_for_every_site(server: str) -> None:
    response = httpx.get(f"{server}/element.js", headers={"Accept-Encoding": "identity"})
    assert response.headers["content-type"].startswith("text/javascript")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert len(response.content) < 40_000
    assert b"import " not in response.content
    assert b"innerHTML" not in response.content
    again = httpx.get(f"{server}/element.js", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_has_a_strict_policy_and_is_no_part_of_the_api(server: str) -> None:
    response = httpx.get(server)
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "<style" not in response.text
    paths = httpx.get(f"{server}/openapi.json").json()["paths"]
    assert not {"/", "/element.js", "/page.js", "/page.css"} & paths.keys()


# Asking


def test_a_question_gets_pages_an_answer_and_quotes(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    page = tab.page
    page.evaluate(
        """() => {
            window.told = [];
            for (const name of ["search", "answer", "open", "error"]) {
                addEventListener(`pageglass-${name}`, () => window.told.push(name));
            }
        }"""
    )
    ask(page, FERRY_QUESTION)
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("The ferry leaves the northern pier at six")
    expect(answer).to_contain_text("quotes verified")
    [citation] = answer.get_by_role("listitem").all()
    expect(citation).to_contain_text("leaves the northern pier")
    expect(citation).to_contain_text("Page 1")
    loaded(citation.locator("img"))
    first = thumbnails(page).first
    expect(first).to_contain_text("Cited 1")
    loaded(first.locator("img"))
    assert page.evaluate("window.told") == ["search", "answer"]
    small = [url for url in tab.requests if "width=" in url]
    assert any("highlight=" in url for url in small)
    expect(page.get_by_role("status").filter(has_text="1 citation")).to_have_count(1)


def test_what_is_not_found_is_said_beside_the_nearest_pages(server: str, tabs: OpenTab) -> None:
    page = tabs(server, bypass_csp=True).page
    ask(page, "Who won the chess tournament in Reykjavik in 1972?")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Not found")
    expect(page.get_by_role("heading", name="The nearest pages")).to_be_visible()
    assert thumbnails(page).count() > 0
    expect(page.get_by_role("list", name="Citations").get_by_role("listitem")).to_have_count(0)
    assert serious(page) == []


def test_a_refusal_is_shown_in_its_own_words(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    ask(tab.page, "x" * 5000)
    alert = tab.page.get_by_role("alert")
    expect(alert).to_contain_text("4,000")
    expect(alert).to_contain_text("Request ")
    tab.forget()  # The browser itself notes a status of 422.


def test_a_busy_server_says_when_to_come_back_and_one_that_is_gone_is_told(
    server: str, tabs: OpenTab
) -> None:
    tab = tabs(server)
    busy = {"title": "Busy.", "detail": "too many questions wait", "status": 503, "code": "busy"}
    headers = {"Retry-After": "7", "Content-Type": "application/problem+json"}
    tab.page.route(
        "**/ask", lambda route: route.fulfill(status=503, headers=headers, body=json.dumps(busy))
    )
    ask(tab.page, FERRY_QUESTION)
    expect(tab.page.get_by_role("alert")).to_contain_text("Too many questions wait.")
    expect(tab.page.get_by_role("alert")).to_contain_text("Try again in 7 seconds.")
    tab.page.unroute("**/ask")
    tab.page.route("**/ask", lambda route: route.abort())
    ask(tab.page, "And now, when does it leave?")
    expect(tab.page.get_by_role("alert")).to_contain_text("Nothing answers at")
    tab.forget()


def test_a_question_can_be_stopped_and_another_takes_its_place(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    page = tab.page
    held: list[Route] = []
    page.route("**/ask", lambda route: held.append(route))
    box = page.get_by_role("search").get_by_role("textbox")
    box.fill("What is never answered?")
    with page.expect_event("requestfailed") as gone:
        box.press("Enter")
        page.get_by_role("button", name="Stop").click()
    assert gone.value.url.endswith("/ask")
    expect(page.get_by_role("status").filter(has_text="Stopped")).to_be_visible()
    with page.expect_event("requestfailed"):
        box.press("Enter")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        box.press("Escape")
    box.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.unroute("**/ask")
    ask(page, FERRY_QUESTION)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("at six")


def test_the_stream_is_shown_as_it_comes_and_what_is_not_verified_is_marked(
    server: str, tabs: OpenTab
) -> None:
    """What lite never says, since it only quotes: said in its place, as a server would."""
    hit = {
        "document_id": "d1",
        "document_name": "notes.pdf",
        "page": 3,
        "page_label": "iii",
        "score": 0.5,
        "why": {"retrievers": [], "fused_rank": 1, "duplicates": [], "yes": 0.81},
        "image_url": "https://evil.example/beacon.png",
    }
    quoted = {
        **{name: hit[name] for name in ("document_id", "document_name", "page", "page_label")},
        "quote": "the moon is cheese",
        "boxes": [],
        "verified": False,
        "image_url": "//evil.example/beacon.png",
    }
    answer = {
        "answer": "The moon is made of cheese.",
        "answer_status": "unverified",
        "extractive": False,
        "citations": [quoted],
        "pages": [hit],
        "model": "tiny",
        "timings_ms": {"answer": 1200.0},
        "usage": [],
        "notes": ["one page could not be read"],
    }
    events: list[tuple[str, Any]] = [
        ("search", {"pages": [hit], "timings_ms": {}, "notes": []}),
        ("token", {"text": "Forget this. ", "restart": False}),
        ("token", {"text": "The moon ", "restart": True}),
        ("citation", {**quoted, "number": 1}),
        ("answer", answer),
    ]
    stream = ": still here\r\n\r\n" + "".join(
        f"id: {number}\r\nevent: {name}\r\ndata: {json.dumps(data)}\r\n\r\n"
        for number, (name, data) in enumerate(events, 1)
    )
    tab = tabs(server)
    tab.page.route(
        "**/ask", lambda route: route.fulfill(content_type="text/event-stream", body=stream)
    )
    ask(tab.page, "What is the moon made of?")
    region = tab.page.get_by_role("region", name="Answer")
    expect(region).to_contain_text("Not verified: check the pages")
    expect(region).to_contain_text("Not verified: not found on the page")
    expect(region).to_contain_text("One page could not be read.")
    expect(region).not_to_contain_text("Forget this")
    expect(region.get_by_role("listitem")).to_contain_text("Page iii (3)")
    expect(thumbnails(tab.page)).to_contain_text("Cited 1")
    assert not any("evil.example" in url for url in tab.requests)


@pytest.mark.parametrize(
    "question",
    [
        "متى تغادر العبارة الرصيف الشمالي؟ ferry pier",
        "⛴️🕕 ferry northern pier leaves? 👩‍👩‍👧",
        '<img src=x onerror="window.pwned=1"> ferry "><script>window.pwned=1</script>',
    ],
)
def test_any_question_is_text_and_nothing_else(server: str, tabs: OpenTab, question: str) -> None:
    page = tabs(server).page
    ask(page, question)
    box = page.get_by_role("search").get_by_role("textbox")
    assert box.input_value() == question
    direction = box.evaluate("(box) => getComputedStyle(box).direction")
    assert direction == ("rtl" if question.startswith("م") else "ltr")
    assert page.evaluate("window.pwned") is None


def test_hostile_names_and_pages_stay_text(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    page = tab.page
    ask(page, "How was the lighthouse at Skerrin painted?")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("red and white")
    expect(thumbnails(page).filter(has_text=HOSTILE_NAME)).to_have_count(1)
    page.get_by_role("button", name="All documents").click()
    expect(page.get_by_role("checkbox", name=HOSTILE_NAME)).to_be_visible()
    thumbnails(page).filter(has_text=HOSTILE_NAME).click()
    expect(viewer(page).get_by_role("heading", name=HOSTILE_NAME)).to_be_visible()
    viewer(page).get_by_text("Text of this page").click()
    expect(viewer(page).get_by_role("region", name="Text of this page")).to_contain_text("<script>")
    links = page.evaluate(
        """() => [...document.querySelector("pageglass-search").shadowRoot.querySelectorAll("a")]
            .map((link) => link.href)"""
    )
    assert all(link.startswith(f"{server}/#document=") for link in links)
    assert page.evaluate("window.pwned") is None
    assert not any("evil.example" in url for url in tab.requests)


def cited_answer(document: str, boxes: list[list[float]], **more: Any) -> str:
    """The events of an answer that cites these boxes of a document's first page."""
    said = {
        "document_id": document,
        "document_name": "ferry.pdf",
        "page": 1,
        "page_label": "1",
        "quote": "Item Price Row 22 Lamp 12 euros",
        "boxes": boxes,
        "verified": True,
        "image_url": f"/documents/{document}/pages/1/image?highlight="
        + ".".join("-".join(str(round(10_000 * share)) for share in box) for box in boxes),
        **more,
    }
    answer = {
        "answer": "12 euros",
        "answer_status": "answered",
        "extractive": True,
        "citations": [said],
        "pages": [],
        "model": "tiny",
        "timings_ms": {},
        "usage": [],
        "notes": [],
    }
    return f"event: answer\ndata: {json.dumps(answer)}\n\n"


HEAD = [0.1, 0.1, 0.8, 0.12]
ROW = [0.1, 0.72, 0.8, 0.74]
COLUMNS = [[0.1, 0.80, 0.45, 0.82], [0.1, 0.83, 0.45, 0.85], [0.55, 0.1, 0.9, 0.12]]
LONG = [[0.1, 0.02 * line, 0.9, 0.02 * line + 0.012] for line in range(2, 49)]
SPOTS = [[0.1, at, 0.102, at + 0.001] for at in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8)]


@pytest.mark.parametrize(
    ("boxes", "marks", "rest"),
    [
        ([HEAD, ROW], 2, 0),
        ([HEAD], 1, 0),
        ([HEAD, [0.1, 0.13, 0.8, 0.15]], 1, 0),
        (COLUMNS, 2, 0),
        (LONG, 4, 1),
        (SPOTS, 6, 3),
    ],
    ids=["head and row", "line", "lines", "columns", "long", "spots"],
)
def test_every_mark_of_a_quote_is_shown_or_counted_and_can_be_reached(
    server: str, tabs: OpenTab, boxes: list[list[float]], marks: int, rest: int
) -> None:
    page = tabs(server).page
    documents = httpx.get(f"{server}/documents").json()["documents"]
    [ferry] = [one["id"] for one in documents if one["name"] == "ferry.pdf"]
    body = cited_answer(ferry, boxes)
    page.route("**/ask", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    ask(page, "What does the lamp of row 22 cost?")
    citation = page.get_by_role("list", name="Citations").get_by_role("button")
    strips = citation.locator(".strip")
    expect(strips).to_have_count(min(3, marks))
    # What a strip shows of the page, from top to bottom, as shares of it.
    seen = strips.evaluate_all(
        """(strips) => strips.map((strip) => {
            const [part, page] = [strip, strip.firstChild].map((n) => n.getBoundingClientRect());
            return [(part.top - page.top) / page.height, (part.bottom - page.top) / page.height];
        })"""
    )
    inside = [any(top <= y0 and y1 <= bottom for top, bottom in seen) for _, y0, _, y1 in boxes]
    assert all(inside) is (rest == 0)
    assert all(bottom - top < 0.4 for top, bottom in seen)
    if rest:
        expect(citation).to_contain_text(f"{rest} more mark")
        words = citation.locator(".quote")
        assert words.evaluate("(words) => !words.closest('.seen')")  # Not for readers' ears alone.

    citation.click()
    dialog = viewer(page)
    loaded(dialog.locator("img"))
    if marks == 1:
        expect(dialog.get_by_role("button", name="Next mark")).to_have_count(0)
        return
    reached: list[str] = []
    for number in range(1, marks + 1):
        expect(dialog.get_by_role("status")).to_contain_text(f"mark {number} of {marks}")
        expect(dialog.locator(".current")).to_be_in_viewport()
        reached.append(dialog.locator(".current").get_attribute("style") or "")
        dialog.get_by_role("button", name="Next mark").click()
    assert len(set(reached)) == marks
    expect(dialog.get_by_role("status")).to_contain_text(f"mark 1 of {marks}")
    page.keyboard.press("p")
    expect(dialog.get_by_role("status")).to_contain_text(f"mark {marks} of {marks}")
    page.keyboard.press("n")
    expect(dialog.get_by_role("status")).to_contain_text(f"mark 1 of {marks}")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("status")).to_contain_text("Page 2 of")
    expect(dialog.get_by_role("button", name="Next mark")).to_have_count(0)


def test_marks_are_reached_on_a_phone(server: str, tabs: OpenTab) -> None:
    page = tabs(server, **PHONE, is_mobile=True, has_touch=True, bypass_csp=True).page
    documents = httpx.get(f"{server}/documents").json()["documents"]
    [ferry] = [one["id"] for one in documents if one["name"] == "ferry.pdf"]
    body = cited_answer(ferry, [HEAD, ROW])
    page.route("**/ask", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    ask(page, "What does the lamp of row 22 cost?")
    citation = page.get_by_role("list", name="Citations").get_by_role("button")
    expect(citation.locator(".quote")).to_be_in_viewport()
    citation.tap()
    loaded(viewer(page).locator("img"))
    viewer(page).get_by_role("button", name="Next mark").tap()
    expect(viewer(page).locator(".current")).to_be_in_viewport()
    assert serious(page) == []


# The viewer


def test_a_page_is_looked_at_by_keyboard_alone(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    page = tab.page
    ask(page, FERRY_QUESTION)
    citation = page.get_by_role("list", name="Citations").get_by_role("button")
    for _ in range(10):
        page.keyboard.press("Tab")
        if citation.evaluate("(node) => node.getRootNode().activeElement === node"):
            break
    page.keyboard.press("Enter")
    dialog = viewer(page)
    picture = dialog.locator("img")
    loaded(picture)
    expect(dialog.get_by_role("status")).to_contain_text(re.compile("Page 1 of [23]"))
    assert any("/image?highlight=" in url and "width" not in url for url in tab.requests)
    expect(dialog.get_by_role("row").filter(has_text="sparse")).to_contain_text(re.compile("[12]"))
    expect(dialog).to_contain_text("Together: rank 1")

    before = shown_width(picture)
    page.keyboard.press("+")
    assert shown_width(picture) > before
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert shown_width(picture) < before
    page.keyboard.press("0")
    assert shown_width(picture) == before
    page.mouse.move(400, 400)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    expect(dialog.get_by_role("button", name="Fit to the width")).not_to_have_text("100%")
    page.keyboard.press("0")

    expect(dialog.get_by_role("button", name="Previous page")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("status")).to_contain_text("Page 2 of")
    loaded(picture)
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("status")).to_contain_text("Page 1 of")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            """() => {
                const root = document.querySelector("pageglass-search").shadowRoot;
                return !root.activeElement || Boolean(root.activeElement.closest("dialog"));
            }"""
        )
    expect(dialog.get_by_role("button", name="Heat-map")).to_have_count(0)  # Lite has none.
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(citation).to_be_focused()


def test_duplicates_can_be_opened_and_a_link_opens_exactly_this_page(
    server: str, tabs: OpenTab
) -> None:
    page = tabs(server).page
    ask(page, FERRY_QUESTION)
    page.get_by_role("list", name="Citations").get_by_role("button").click()
    dialog = viewer(page)
    twin = dialog.get_by_role("button", name=re.compile(r"(copy|ferry)\.pdf page 1"))
    expect(twin).to_be_visible()
    before = dialog.get_by_role("heading", name=re.compile(r"\.pdf")).inner_text()
    name = twin.locator("bdi").inner_text()
    assert name != before

    dialog.get_by_role("button", name="Copy link").click()
    expect(dialog.get_by_role("button", name="Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    asked = parse_qs(urlsplit(link).fragment)
    assert asked["page"] == ["1"]
    assert re.fullmatch(r"[0-9.-]+", asked["highlight"][0])
    assert not urlsplit(link).query
    twin.click()
    expect(dialog.get_by_role("heading", name=name)).to_be_visible()

    other = tabs(link)
    opened = viewer(other.page)
    expect(opened.get_by_role("heading", name=before)).to_be_visible()
    expect(opened.get_by_role("status")).to_contain_text("Page 1 of")
    loaded(opened.locator("img"))
    assert any(f"highlight={asked['highlight'][0]}" in url for url in other.requests)
    other.page.evaluate("location.hash = location.hash.replace('page=1', 'page=2')")
    expect(opened.get_by_role("status")).to_contain_text("Page 2 of")
    opened.get_by_role("button", name="Close").click()
    expect(opened).to_have_count(0)
    expect(other.page).to_have_url(f"{server}/")  # Without the fragment.


def test_a_link_to_what_is_not_there_says_so(server: str, tabs: OpenTab) -> None:
    tab = tabs(f"{server}/#document=../../livez&page=-3&highlight=%3Cb%3E")
    expect(viewer(tab.page).get_by_role("alert")).to_contain_text(re.compile("\\w"))
    assert not any("livez" in urlsplit(url).path.split("/")[-1:] for url in tab.requests)
    assert not any("highlight=%3C" in url.partition("#")[0] for url in tab.requests)
    tab.forget()  # The browser notes a status of 404.


def test_a_heat_map_is_offered_where_the_profile_has_one(server: str, tabs: OpenTab) -> None:
    """Lite has none, so the profile is said to be another."""
    version = httpx.get(f"{server}/version").json() | {"can": ["heatmap"]}
    tab = tabs("about:blank")
    tab.page.route("**/version", lambda route: route.fulfill(json=version))
    tab.page.goto(server)
    ask(tab.page, FERRY_QUESTION)
    thumbnails(tab.page).first.click()
    button = viewer(tab.page).get_by_role("button", name="Heat-map")
    expect(button).to_have_attribute("aria-pressed", "false")
    with tab.page.expect_request(lambda request: "/image?heatmap=" in request.url) as asked:
        button.click()
    assert parse_qs(urlsplit(asked.value.url).query) == {"heatmap": [FERRY_QUESTION]}
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(viewer(tab.page).get_by_role("alert")).to_contain_text("heat")  # Refused, after all.
    tab.forget()


def test_back_closes_the_viewer_and_keeps_the_answer(server: str, tabs: OpenTab) -> None:
    tab = tabs(server)
    page = tab.page
    ask(page, FERRY_QUESTION)
    asked = page.url
    answer = page.get_by_role("region", name="Answer")
    dialog = viewer(page)

    def questions() -> int:
        return sum(url.endswith("/ask") for url in tab.requests)

    thumbnails(page).first.click()
    loaded(dialog.locator("img"))
    opened = page.url
    assert opened != asked
    dialog.get_by_role("button", name="Next page").click()
    expect(dialog.get_by_role("status")).to_contain_text("Page 2 of")
    page.go_back()
    expect(dialog).to_have_count(0)
    expect(answer).to_contain_text("at six")
    assert page.url == asked
    page.go_forward()
    expect(dialog.get_by_role("status")).to_contain_text("Page 2 of")
    for close in (
        lambda: page.keyboard.press("Escape"),
        lambda: dialog.get_by_role("button", name="Close").click(),
    ):
        close()
        expect(dialog).to_have_count(0)
        expect(page).to_have_url(asked)
        thumbnails(page).first.click()
        expect(page).to_have_url(opened)
    assert questions() == 1

    page.reload()
    expect(dialog.get_by_role("status")).to_contain_text("Page 1 of")
    expect(page.locator(".answered")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page).to_have_url(asked)
    expect(answer).to_contain_text("at six")
    assert questions() == 2

    ask(page, "What do tickets cost for adults?")
    expect(answer).to_contain_text("twelve euros")
    page.go_back()
    expect(page.get_by_role("search").get_by_role("textbox")).to_have_value(FERRY_QUESTION)
    expect(answer).to_contain_text("at six")


def test_a_question_has_an_address_that_no_log_sees(server: str, tabs: OpenTab) -> None:
    first = tabs(server).page
    first.get_by_label("Collection").select_option("plants")
    ask(first, "Why was turbine 7 stopped?")
    fragment = parse_qs(urlsplit(first.url).fragment)
    assert fragment == {"q": ["Why was turbine 7 stopped?"], "collection": ["plants"]}
    assert not urlsplit(first.url).query
    tab = tabs(first.url)
    expect(tab.page.get_by_role("region", name="Answer")).to_contain_text("92 degrees")
    expect(tab.page.get_by_label("Collection")).to_have_value("plants")
    assert not any("turbine" in url.partition("#")[0].lower() for url in tab.requests)
    # Written by hand.
    by_hand = tabs(f"{server}/#q=Why%20was%20turbine%207%20stopped?").page
    expect(by_hand.get_by_role("region", name="Answer")).to_contain_text("92 degrees")


def test_an_embedded_search_leaves_the_history_of_its_page_alone(
    server: str, elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    folder, address = elsewhere
    (folder / "history.html").write_text(HOST_PAGE.format(server=server))
    page = tabs(f"{address}/history.html").page
    length = page.evaluate("history.length")
    ask(page, FERRY_QUESTION)
    thumbnails(page).first.click()
    loaded(viewer(page).locator("img"))
    page.keyboard.press("Escape")
    expect(viewer(page)).to_have_count(0)
    assert page.url == f"{address}/history.html"
    assert page.evaluate("history.length") == length


@pytest.mark.parametrize("can_copy", [True, False])
def test_a_link_is_copied_or_can_be_where_there_is_no_clipboard(
    server: str, tabs: OpenTab, can_copy: bool
) -> None:
    """As on plain http in a network, where browsers give pages no clipboard."""
    tab = tabs("about:blank")
    page = tab.page
    page.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined });"
        + ("" if can_copy else "Document.prototype.execCommand = () => false;")
    )
    page.goto(server)
    ask(page, FERRY_QUESTION)
    thumbnails(page).first.click()
    dialog = viewer(page)
    dialog.get_by_role("button", name="Copy link").click()
    field = dialog.get_by_role("textbox", name="Link to this page")
    if can_copy:
        expect(dialog.get_by_role("button", name="Link copied")).to_be_focused()
        expect(field).to_have_count(0)
        return
    expect(dialog.get_by_role("button", name="Copy the link here")).to_be_visible()
    expect(field).to_be_focused()
    expect(field).to_have_value(page.url)
    assert field.evaluate("(field) => field.selectionEnd - field.selectionStart") == len(page.url)


@pytest.mark.parametrize(
    "body", ["event: answer\ndata: {\n\n", "event: search\ndata: {}\n\n", ""], ids=str
)
def test_half_an_answer_is_said_to_be_one(server: str, tabs: OpenTab, body: str) -> None:
    page = tabs(server).page
    page.route("**/ask", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    ask(page, FERRY_QUESTION)
    expect(page.get_by_role("alert")).to_contain_text("The answer broke off.")


def test_a_page_without_storage_or_version_still_works(server: str, tabs: OpenTab) -> None:
    tab = tabs("about:blank")
    page = tab.page
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage',"
        " { get: () => { throw new DOMException('denied', 'SecurityError'); } });"
    )
    page.route("**/version", lambda route: route.fulfill(body="<html>a proxy's page</html>"))
    page.goto(server)
    ask(page, FERRY_QUESTION)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("at six")


def test_an_endpoint_that_is_no_address_is_said_to_be_none(server: str, tabs: OpenTab) -> None:
    page = tabs(server).page
    page.evaluate("document.querySelector('pageglass-search').endpoint = 'http://'")
    expect(page.get_by_role("alert")).to_contain_text("The endpoint is no address.")


# Filters and uploads


def test_questions_are_kept_to_a_collection_and_to_documents(server: str, tabs: OpenTab) -> None:
    page = tabs(server).page
    select = page.get_by_label("Collection")
    expect(select.get_by_role("option", name="plants")).to_have_count(1)
    select.select_option("plants")
    ask(page, FERRY_QUESTION)
    expect(thumbnails(page)).to_have_count(1)
    expect(thumbnails(page)).to_contain_text("turbine.pdf")

    select.select_option("")
    page.get_by_role("button", name="All documents").click()
    panel = page.get_by_role("group", name="Documents to ask")
    expect(panel.get_by_role("checkbox")).to_have_count(4)
    panel.get_by_role("searchbox").fill("COPY")
    expect(panel.get_by_role("checkbox")).to_have_count(1)
    panel.get_by_role("checkbox").check()
    panel.get_by_role("searchbox").press("Escape")
    expect(panel).to_have_count(0)
    expect(page.get_by_role("button", name="1 document")).to_be_focused()
    ask(page, FERRY_QUESTION)
    for found in thumbnails(page).all():
        expect(found).to_contain_text("copy.pdf")


def drop_files(page: Page, files: dict[str, bytes], says: str = "Drop files to add them") -> None:
    """Drag files from the desktop over the element and let them go."""
    given = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    data = page.evaluate_handle(
        """(given) => {
            const data = new DataTransfer();
            for (const [name, text] of given) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], name));
            }
            return data;
        }""",
        given,
    )
    element = page.locator("pageglass-search")
    element.dispatch_event("dragenter", {"dataTransfer": data})
    expect(page.get_by_text(says)).to_be_visible()
    element.dispatch_event("dragover", {"dataTransfer": data})
    element.dispatch_event("drop", {"dataTransfer": data})
    expect(page.get_by_text("Drop files to add them")).to_be_hidden()


def test_files_dropped_are_sent_indexed_and_found(
    server: str, tabs: OpenTab, tmp_path: Path
) -> None:
    tab = tabs(server)
    page = tab.page
    page.evaluate(
        "() => { window.seen = []; addEventListener('pageglass-upload',"
        " ({ detail }) => window.seen.push([detail.name, detail.state])); }"
    )
    page.get_by_label("Collection").select_option("plants")
    good = pdf(tmp_path / "a.pdf", ["The orchard keeps forty hives, and the honey is sold in May."])
    drop_files(
        page, {"hives <b>.pdf": good.read_bytes(), "empty.pdf": b"", "odd.pdf": b"%PDF-1.4 no"}
    )
    rows = page.get_by_role("list", name="Uploads").get_by_role("listitem")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="hives <b>.pdf")).to_contain_text("Indexed: 1 page", timeout=30_000)
    expect(rows.filter(has_text="empty.pdf")).to_contain_text("is empty")
    expect(rows.filter(has_text="odd.pdf")).to_contain_text("Failed: ", timeout=30_000)
    seen = dict(page.evaluate("window.seen"))
    assert seen == {"hives <b>.pdf": "done", "empty.pdf": "refused", "odd.pdf": "dead"}
    ask(page, "How many hives does the orchard keep?")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("forty hives")
    tab.forget()  # The browser notes the refused file's status.


# On another site's page


HOST_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Intranet</title>
<script type="module" src="{server}/element.js"></script>
<h1>Our intranet</h1>
<pageglass-search endpoint="{server}" collection="default" heading="Ask the handbooks"
    placeholder="Ask the handbooks…"></pageglass-search>
</html>
"""


def test_the_element_works_in_a_page_of_another_site_under_a_strict_policy(
    server: str, elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    folder, address = elsewhere
    (folder / "index.html").write_text(HOST_PAGE.format(server=server))
    tab = tabs(address)
    page = tab.page
    expect(page.get_by_role("heading", name="Ask the handbooks")).to_be_visible()
    expect(page.get_by_role("combobox")).to_have_count(0)
    expect(page.get_by_role("button", name="Add documents")).to_have_count(0)
    page.get_by_role("textbox", name="Ask the handbooks…").fill(FERRY_QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("at six")
    loaded(thumbnails(page).first.locator("img"))
    thumbnails(page).first.click()
    loaded(viewer(page).locator("img"))
    link = viewer(page).get_by_role("link").get_attribute("href")
    assert link is not None
    assert link.startswith(f"{server}/#document=")
    viewer(page).get_by_role("button", name="Close").click()

    answer = page.evaluate(
        """async () => {
            const search = document.querySelector("pageglass-search");
            search.key = "pgk_not_in_the_document";
            search.key = "";
            const answer = await search.ask("What do tickets cost for adults?");
            return [answer.answer, search.question, search.collection, search.outerHTML];
        }"""
    )
    assert "twelve euros" in answer[0]
    assert answer[1:3] == ["What do tickets cost for adults?", "default"]
    assert "pgk_not" not in answer[3]
    tab.forget()  # The browser notes that this is no key.


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, str]]:
    """A server that wants keys, with a document in each of two collections."""
    folder = tmp_path_factory.mktemp("keyed")
    settings = load_settings({"data_dir": folder / "data", "server": {"keys": "on"}})
    with Services(settings, command="test") as services:
        for collection, pages in {"manuals": FERRY, "secret": TURBINE}.items():
            file = pdf(folder / f"{collection}.pdf", pages)
            for report in services.ingest([file], collection=collection):
                assert report.outcome == "indexed", report.reason
        services.start_worker()
        with serving(services) as address:
            yield services, address


def test_the_page_asks_for_a_key_where_the_server_wants_one(
    keyed: tuple[Services, str], tabs: OpenTab
) -> None:
    services, address = keyed
    _, key = services.keys.add(name="people", scopes=["ask", "ingest"])
    tab = tabs(address)
    page = tab.page
    field = page.get_by_label("Key", exact=True)
    expect(field).to_have_attribute("type", "password")
    ask(page, FERRY_QUESTION)
    expect(page.get_by_role("alert")).to_contain_text("API key")
    tab.forget()  # The browser notes a status of 401.
    field.fill(key)
    with page.expect_response("**/collections"):
        field.press("Enter")
    ask(page, FERRY_QUESTION)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("at six")
    loaded(thumbnails(page).first.locator("img"))
    page.reload()
    expect(field).to_have_value(key)
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    assert page.evaluate("document.cookie") == ""
    assert not any(key in url for url in tab.requests)


def test_a_key_of_a_site_is_enough_on_a_loopback_server(
    tmp_path: Path, elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    folder, site_address = elsewhere
    settings = load_settings({"data_dir": tmp_path / "data"})
    with Services(settings, command="test") as services:
        for report in services.ingest([pdf(tmp_path / "ferry.pdf", FERRY)], collection="manuals"):
            assert report.outcome == "indexed", report.reason
        _, key = services.keys.add(
            name="intranet", scopes=["ask"], collections=["manuals"], origins=[site_address]
        )
        with serving(services) as address:
            page_text = HOST_PAGE.format(server=address).replace(
                'collection="default"', f'collection="manuals" key="{key}"'
            )
            (folder / "local.html").write_text(page_text)
            page = tabs(f"{site_address}/local.html").page
            ask(page, FERRY_QUESTION)
            loaded(thumbnails(page).first.locator("img"))


def test_a_wrong_key_says_so_at_once_and_adding_is_offered_to_whom_may(
    keyed: tuple[Services, str], tabs: OpenTab, tmp_path: Path
) -> None:
    services, address = keyed
    tab = tabs(address)
    page = tab.page
    add = page.get_by_role("button", name="Add documents")
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_visible()
    expect(add).to_have_count(0)
    field.fill("pgk_0123456789ab_" + "x" * 32)
    field.press("Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This API key is unknown")
    expect(alert).not_to_contain_text("pageglass")
    expect(add).to_have_count(0)
    tab.forget()  # The browser notes a status of 401.

    _, reader = services.keys.add(name="reader", scopes=["ask"])
    field.fill(reader)
    with page.expect_response("**/collections"):
        field.press("Enter")
    expect(alert).to_have_count(0)
    expect(add).to_have_count(0)

    _, writer = services.keys.add(name="w", scopes=["ask", "ingest"], collections=["manuals"])
    field.fill(writer)
    field.press("Enter")
    expect(page.get_by_role("button", name="Add documents to manuals")).to_be_visible()
    _, everywhere = services.keys.add(name="e", scopes=["ask", "ingest"])
    field.fill(everywhere)
    field.press("Enter")
    expect(page.get_by_role("button", name="Add documents to default")).to_be_visible()
    page.get_by_label("Collection").select_option("secret")
    expect(page.get_by_role("button", name="Add documents to secret")).to_be_visible()
    file = pdf(tmp_path / "a.pdf", ["Nobody may read that the vault opens at nine."])
    with page.expect_response("**/documents") as sent:
        drop_files(page, {"vault.pdf": file.read_bytes()}, "Drop files to add them to secret")
    assert sent.value.json()["documents"][0]["collection"] == "secret"


def test_a_key_for_browsers_reaches_its_collection_from_its_site_only(
    keyed: tuple[Services, str], elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    services, address = keyed
    folder, site_address = elsewhere
    _, key = services.keys.add(
        name="intranet", scopes=["ask"], collections=["manuals"], origins=[site_address]
    )
    page_text = HOST_PAGE.format(server=address).replace(
        'collection="default"', f'upload key="{key}"'
    )
    (folder / "keyed.html").write_text(page_text)
    tab = tabs(f"{site_address}/keyed.html")
    page = tab.page
    expect(page.get_by_role("option", name="manuals")).to_have_count(1)
    expect(page.get_by_role("option", name="secret")).to_have_count(0)
    ask(page, FERRY_QUESTION)
    loaded(thumbnails(page).first.locator("img"))
    for found in thumbnails(page).all():
        expect(found).to_contain_text("manuals.pdf")
    thumbnails(page).first.click()
    loaded(viewer(page).locator("img"))
    assert not any(key in url for url in tab.requests)
    viewer(page).get_by_role("button", name="Close").click()
    # It may not add documents, so that is not offered, though the page asks for it.
    expect(page.get_by_role("button", name="Add documents")).to_have_count(0)

    other = tabs(address)
    other.page.get_by_label("Key", exact=True).fill(key)
    other.page.get_by_label("Key", exact=True).press("Enter")
    ask(other.page, FERRY_QUESTION)
    expect(other.page.get_by_role("alert")).to_contain_text("may not be used from here")
    other.forget()


def test_a_key_for_searching_alone_shows_pages_and_no_answer(
    keyed: tuple[Services, str], elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    services, address = keyed
    folder, site_address = elsewhere
    _, key = services.keys.add(
        name="search", scopes=["search"], collections=["manuals"], origins=[site_address]
    )
    page_text = HOST_PAGE.format(server=address).replace('collection="default"', f'key="{key}"')
    (folder / "searching.html").write_text(page_text)
    tab = tabs(f"{site_address}/searching.html")
    box = tab.page.get_by_role("search").get_by_role("textbox")
    box.fill(FERRY_QUESTION)
    box.press("Enter")
    loaded(thumbnails(tab.page).first.locator("img"))
    expect(tab.page.get_by_role("status").filter(has_text="found.")).to_be_visible()
    expect(tab.page.get_by_role("region", name="Answer")).to_be_hidden()
    expect(tab.page.get_by_role("alert")).to_be_hidden()
    tab.forget()  # The browser notes that answers are refused.


# For everybody


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=str
)
def test_nothing_keeps_anybody_out(server: str, tabs: OpenTab, options: dict[str, Any]) -> None:
    page = tabs(server, bypass_csp=True, **options).page
    ask(page, FERRY_QUESTION)
    page.get_by_role("button", name="All documents").click()
    expect(page.get_by_role("checkbox").first).to_be_visible()
    assert serious(page) == []
    thumbnails(page).first.click()
    loaded(viewer(page).locator("img"))
    assert serious(page) == []


def test_a_small_phone_never_scrolls_sideways(server: str, tabs: OpenTab) -> None:
    page = tabs(server, **PHONE, is_mobile=True, has_touch=True).page
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    ask(page, FERRY_QUESTION + " " + "pneumonoultramicroscopicsilicovolcanoconiosis" * 3)
    assert page.evaluate(overflow) == 0
    ask(page, "How was the lighthouse at Skerrin painted?")
    assert page.evaluate(overflow) == 0
    thumbnails(page).first.tap()
    picture = viewer(page).locator("img")
    loaded(picture)
    assert page.evaluate(overflow) == 0
    assert shown_width(picture) <= 320


def test_a_theme_can_be_chosen_and_coloured_by_the_host(
    server: str, elsewhere: tuple[Path, str], tabs: OpenTab
) -> None:
    folder, address = elsewhere
    (folder / "themed.html").write_text(HOST_PAGE.format(server=server))
    page = tabs(f"{address}/themed.html", color_scheme="light").page
    element = page.locator("pageglass-search")
    expect(page.get_by_role("heading", name="Ask the handbooks")).to_be_visible()
    background = "(element) => getComputedStyle(element).backgroundColor"
    light = element.evaluate(background)
    element.evaluate("(element) => element.setAttribute('theme', 'dark')")
    assert element.evaluate(background) != light
    element.evaluate("(element) => element.style.setProperty('--pageglass-accent', 'rgb(9, 8, 7)')")
    button = page.get_by_role("button", name="Ask", exact=True)
    assert button.evaluate(background) == "rgb(9, 8, 7)"


# Pictures for the documents


@pytest.mark.skipif(
    not os.environ.get("PAGEGLASS_TEST_SCREENSHOTS"),
    reason="draws docs/images anew where PAGEGLASS_TEST_SCREENSHOTS is set",
)
def test_screenshots(tmp_path: Path, tabs: OpenTab) -> None:
    names = ("hartmoor_catalogue_2025", "skerrin_line_annual_report_2024", "oakhaven_travel_policy")
    documents = [ROOT / "samples" / "docs" / f"{name}.pdf" for name in names]
    stove = "How long does Hartmoor's Ember Trail stove take to boil half a litre of water?"
    desk: dict[str, Any] = {"viewport": {"width": 1200, "height": 860}}
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 2}
    settings = load_settings({"data_dir": tmp_path / "data"})
    with Services(settings, command="test") as services:
        for report in services.ingest(documents):
            assert report.outcome == "indexed", report.reason
        services.start_worker()
        with serving(services) as address:
            page = tabs(address, **desk).page
            ask(page, stove)
            _keep(page, "search-light")
            page.get_by_role("list", name="Citations").get_by_role("button").first.click()
            loaded(viewer(page).locator("img"))
            _keep(page, "search-viewer")
            page.keyboard.press("Escape")
            ask(page, "Who won the chess tournament in Reykjavik in 1972?")
            _keep(page, "search-declined")
            page = tabs(address, **desk, color_scheme="dark").page
            ask(page, "Why was the winter timetable on the ferry route to Hest suspended?")
            _keep(page, "search-dark")
            page = tabs(address, **phone).page
            ask(page, stove)
            _keep(page, "search-phone")


def _keep(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    with Image.open(io.BytesIO(page.screenshot())) as taken:
        small = taken.convert("RGB").quantize(200, dither=Image.Dither.NONE)
        small.save(IMAGES / f"{name}.png", optimize=True)

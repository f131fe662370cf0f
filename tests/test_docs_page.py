"""The page of the API, in a real browser: it comes from this server, all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.services import Services
from pageglass.settings import load_settings
from tests.browser import Tab, chromium, needs_chromium
from tests.serving import serving


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = load_settings({"data_dir": tmp_path_factory.mktemp("docs") / "data"})
    with Services(settings, command="test") as services, serving(services) as address:
        yield address


@needs_chromium
def test_it_shows_the_operations_and_asks_no_other_host(address: str) -> None:
    with chromium() as browser:
        tab = Tab(browser)
        tab.page.goto(f"{address}/docs")
        tab.page.wait_for_selector("#operations-ask-ask")
        tab.page.click("#operations-ask-ask .opblock-summary-control")
        tab.page.wait_for_selector("#operations-ask-ask .opblock-body")
        assert "Pageglass" in tab.page.inner_text("h1, h2")
        assert tab.page.evaluate("window.broken") == []
        hosts = [url for url in tab.requests if not url.startswith(("data:", "blob:"))]
        assert hosts
        assert all(url.startswith(f"{address}/") for url in hosts), hosts


def test_it_names_no_other_host(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as http:
        page = http.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text
        style = http.get("/swagger-ui.css")
        assert style.headers["content-type"].startswith("text/css")
        tagged = {"If-None-Match": style.headers["etag"]}
        assert http.get("/swagger-ui.css", headers=tagged).status_code == 304


def test_what_is_no_json_has_a_schema_too(address: str) -> None:
    described: dict[str, Any] = httpx.get(f"{address}/openapi.json", trust_env=False).json()
    contents = {
        (path, kind): content
        for path, operations in described["paths"].items()
        for operation in operations.values()
        for response in operation["responses"].values()
        for kind, content in response.get("content", {}).items()
    }
    for (path, kind), content in contents.items():
        assert content.get("schema"), (path, kind)
    image = "/documents/{document_id}/pages/{number}/image"
    for kind in ("image/jpeg", "image/png", "image/webp"):
        assert contents[image, kind]["schema"] == {
            "type": "string",
            "format": "binary",
            "contentMediaType": kind,
        }
    assert ("/jobs/events", "text/event-stream") in contents
    assert ("/metrics", "text/plain") in contents

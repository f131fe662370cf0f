"""A real Chromium for the tests, and what a page did in it that it should not have done."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"
)

_WATCH = """
window.broken = [];
document.addEventListener("securitypolicyviolation",
    (event) => window.broken.push(`${event.violatedDirective}: ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page in a browser profile of its own, which writes down what goes wrong in it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        options.setdefault("locale", "en-GB")
        self._context = browser.new_context(**options)
        self._context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(15_000)
        self.requests: list[str] = []
        self._errors: list[str] = []
        self.page.add_init_script(_WATCH)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", self._on_error)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._errors.append(message.text)

    def _on_error(self, error: Error) -> None:
        self._errors.append(str(error))

    def problems(self) -> list[str]:
        """Errors on the console, scripts that failed, and what its Content-Security-Policy met."""
        return [*self._errors, *self.page.evaluate("window.broken")]

    def forget(self) -> None:
        """Let the problems so far pass: the test meant them."""
        self._errors.clear()

    def close(self) -> None:
        """Close the page and its profile."""
        self._context.close()


@contextmanager
def site(folder: Path, headers: dict[str, str]) -> Generator[str]:
    """Another site: ``folder`` on a loopback port of its own, with these headers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

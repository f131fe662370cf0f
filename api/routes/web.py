"""The search page and the custom element it is made of, for this site and for others."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Header, Response

from api.etags import matches

router = APIRouter(include_in_schema=False)

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""What the page may do: its own files and the API, and pictures it fetched itself. No markup is
ever made of text, which the last line lets browsers hold us to."""

DOCS_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page of the API may do: as the search page, but Swagger UI makes markup of text."""

_ASK_AGAIN = "no-cache"
"""Kept by browsers, but only as long as the server says that nothing changed."""


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    media_type: str
    tag: str
    headers: dict[str, str]

    def answer(self, if_none_match: str | None) -> Response:
        headers = {"ETag": self.tag, "Cache-Control": _ASK_AGAIN, **self.headers}
        if matches(if_none_match, self.tag):
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


def slim(script: str) -> str:
    """The script without indentation, blank lines, and lines that are comments, its style without
    the room between tokens, its code without that around operators."""
    style = re.compile(r"(?<=const STYLE = `)[^`]*")
    script = style.sub(lambda found: re.sub(r"\s*([{};,]|:(?=\s))\s*", r"\1", found[0]), script)
    lines = (line.strip() for line in script.splitlines())
    code = "\n".join(line for line in lines if line and not line.startswith(("//", "/**", "* ")))
    return re.sub(r" (=|=>|===|!==|&&|\|\|) ", r"\1", code)


def _read(name: str, media_type: str, **headers: str) -> _File:
    text = files("api").joinpath("web", name).read_text()
    return _file(
        (slim(text) if media_type == "text/javascript" else text).encode(), media_type, **headers
    )


def _file(data: bytes, media_type: str, **headers: str) -> _File:
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _File(data, f"{media_type}; charset=utf-8", tag, named)


_PAGE = _read(
    "index.html",
    "text/html",
    Content_Security_Policy=PAGE_POLICY,
    Referrer_Policy="no-referrer",
    Cross_Origin_Opener_Policy="same-origin",
)
_ELEMENT = _read(
    "element.js",
    "text/javascript",
    Access_Control_Allow_Origin="*",
    Cross_Origin_Resource_Policy="cross-origin",
)
_PAGE_SCRIPT = _read("page.js", "text/javascript")
_PAGE_STYLE = _read("page.css", "text/css")

_DOCS = _read(
    "docs.html",
    "text/html",
    Content_Security_Policy=DOCS_POLICY,
    Referrer_Policy="no-referrer",
    Cross_Origin_Opener_Policy="same-origin",
)
_DOCS_SCRIPT = _read("docs.js", "text/javascript")
_SWAGGER_UI = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@cache
def _swagger_ui(name: str) -> _File:
    """A file of Swagger UI, as the package fastapi-offline carries it."""
    data = files("fastapi_offline").joinpath("static", name).read_bytes()
    return _file(data, _SWAGGER_UI[name])


Seen = Annotated[str | None, Header(alias="If-None-Match")]


@router.get("/")
async def page(seen: Seen = None) -> Response:
    """Show the search page."""
    return _PAGE.answer(seen)


@router.get("/element.js")
async def element(seen: Seen = None) -> Response:
    """Give the custom element, to pages of every site: it holds nothing of the documents."""
    return _ELEMENT.answer(seen)


@router.get("/page.js")
async def page_script(seen: Seen = None) -> Response:
    """Give the search page's script."""
    return _PAGE_SCRIPT.answer(seen)


@router.get("/page.css")
async def page_style(seen: Seen = None) -> Response:
    """Give the search page's style."""
    return _PAGE_STYLE.answer(seen)


@router.get("/docs")
async def docs(seen: Seen = None) -> Response:
    """Show the description of the API, by Swagger UI; nothing comes from another host."""
    return _DOCS.answer(seen)


@router.get("/docs.js")
async def docs_script(seen: Seen = None) -> Response:
    """Give the script that starts Swagger UI."""
    return _DOCS_SCRIPT.answer(seen)


@router.get("/swagger-ui-bundle.js")
def swagger_ui_script(seen: Seen = None) -> Response:
    """Give Swagger UI's script."""
    return _swagger_ui("swagger-ui-bundle.js").answer(seen)


@router.get("/swagger-ui.css")
def swagger_ui_style(seen: Seen = None) -> Response:
    """Give Swagger UI's style."""
    return _swagger_ui("swagger-ui.css").answer(seen)

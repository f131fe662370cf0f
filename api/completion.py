"""Completion in a shell: names of collections and documents, as the data folder's catalog has them.

It only looks, and where it cannot look it says nothing: a half-typed line is no place for an error.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pageglass.errors import PageglassError

if TYPE_CHECKING:
    from api.looking import Looking

_MOST = 200


def collections(ctx: typer.Context, incomplete: str) -> list[str]:
    """The collections whose names begin like this."""
    with _folder(ctx) as folder:
        names = folder.collections() if folder is not None else []
    return [name for name in names if name.startswith(incomplete)]


def documents(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The names of documents that begin like this; ids once something of one was typed."""
    found: dict[str, str] = {}
    with _folder(ctx) as folder:
        for document in folder.documents() if folder is not None else []:
            if len(found) >= _MOST:
                break
            for name in document.names:
                # A line break or the like cannot be completed to.
                if name.startswith(incomplete) and name.isprintable():
                    found[name] = document.collection
            if incomplete and document.id.startswith(incomplete):
                found[document.id] = document.name if document.name.isprintable() else ""
    return list(found.items())


@contextmanager
def _folder(ctx: typer.Context) -> Generator[Looking | None]:
    """The data folder that the line names so far; None where there is none to look at."""
    from api.looking import Looking
    from pageglass.settings import load_settings

    typed = ctx.find_root().params
    if (config := typed.get("config")) is not None:
        os.environ["PAGEGLASS_CONFIG"] = str(config)
    data_dir: Path | None = typed.get("data_dir")
    if typed.get("server") or (data_dir is None and os.environ.get("PAGEGLASS_URL")):
        yield None
        return
    try:
        folder = Looking(load_settings({} if data_dir is None else {"data_dir": data_dir}))
    except PageglassError:
        yield None
        return
    with folder:
        yield folder

"""docs/api.md tells of every operation and every error code, and of no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from api.services import Services
from pageglass import errors

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text()


def test_every_operation_is_told_with_its_scopes(services: Services) -> None:
    described: dict[str, Any] = create_app(services).openapi()["paths"]
    there = {
        (f"{method.upper()} {path}", ", ".join(operation["x-pageglass-scopes"]) or "none")
        for path, operations in described.items()
        for method, operation in operations.items()
    }
    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| .* \| ([a-z, ]+) \|$", PAGE, re.MULTILINE)
    assert set(rows) == there


def kinds(kind: type[errors.PageglassError]) -> list[type[errors.PageglassError]]:
    """Those that a server may raise: nothing of evals runs in one."""
    narrower = [n for n in kind.__subclasses__() if not n.__module__.startswith("evals.")]
    return [kind, *(below for one in narrower for below in kinds(one))]


@pytest.mark.parametrize("kind", kinds(errors.PageglassError), ids=lambda kind: kind.__name__)
def test_every_error_is_told_with_its_status(kind: type[errors.PageglassError]) -> None:
    if kind in (errors.AccessError, errors.Overload):  # only their kinds are raised
        return
    told = re.findall(rf"^\| `{kind.code}` \| (\d+) \|", PAGE, re.MULTILINE)
    assert told == [str(kind.status)]


def test_the_limits_name_settings_that_there_are() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    limits = PAGE.partition("## Limits")[2].partition("## Writes")[0]
    named = re.findall(r"`([a-z]+(?:\.[a-z_]+)+)`", limits)
    assert len(named) >= 8
    for setting in named:
        assert f"| `{setting}` |" in readme, setting

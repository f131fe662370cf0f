"""What commands share: arguments, figures and tables as people read them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pageglass.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from evals.runs import ScopeName

RunFile = Annotated[
    Path, typer.Argument(metavar="RUN", help="The file of a run.", exists=True, dir_okay=False)
]
CasesToAsk = Annotated[
    Path, typer.Option(help="Questions, one JSON object a line.", exists=True, dir_okay=False)
]
ScopeOption = Annotated[
    str, typer.Option(help="Search only the case's document, or the whole collection.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def scope_name(scope: str) -> ScopeName:
    """The scope, if it is one; else the usage is wrong."""
    if scope not in ("document", "collection"):
        raise typer.BadParameter("must be 'document' or 'collection'", param_hint="--scope")
    return scope


@contextmanager
def keeping(beside: Path, what: str = "") -> Generator[Path]:
    """The file beside another in which finished pieces are kept; it goes once all is done. Where
    the work is stopped half way, says what comes of it."""
    beside = beside.resolve()
    kept = beside.with_name(".".join(filter(None, (beside.name, what, "partial"))))
    try:
        yield kept
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; what is done is kept in {kept.name}: run the same command again to go on"
            if kept.exists()
            else "stopped before anything was done"
        ) from None
    kept.unlink(missing_ok=True)


def say_resumed(pieces: int) -> None:
    """Say on standard error what was done already."""
    typer.echo(f"going on: {pieces} done already", err=True)


@contextmanager
def progress(what: str, total: int, quiet: bool) -> Generator[Callable[[object], None]]:
    """Shows on standard error how many are done, of which it is told; nothing if ``quiet``."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A figure, with the ends of its interval where it has one."""
    if value is None:
        return "not defined"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def print_table(table: Table) -> None:
    """Print a table; into files and pipes as wide as it is."""
    from rich import box
    from rich.console import Console

    table.box = box.SIMPLE
    # On a narrow terminal figures break over lines; nothing is cut, and names stay whole.
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = table.columns[0].max_width is None
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    console = Console(highlight=False, markup=False)
    console.print(table) if console.is_terminal else Console(
        highlight=False, markup=False, width=500
    ).print(table)


def print_excluded(lines: Iterable[str]) -> None:
    """Say on standard error what was left out, and why."""
    excluded = list(lines)
    if excluded:
        typer.echo(f"excluded: {len(excluded)}", err=True)
    for line in excluded:
        typer.echo(f"  {one_line(line)}", err=True)

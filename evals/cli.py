"""`pageglass eval`: is retrieval good, are answers true, and what holds them back?

Loaded by the command line (entry point ``eval`` of ``pageglass.commands``). Heavy imports happen
inside the commands.
"""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure search and answers on questions whose pages are known.",
    short_help="Measure search and answers on your own cases.",
)


@app.callback()
def _group() -> None:
    """Measure search and answers on questions whose pages are known."""

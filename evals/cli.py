"""`pageglass eval`: is retrieval good, are answers true, and what holds them back?

Loaded by the command line (entry point ``eval`` of ``pageglass.commands``). What commands do is in
evals.commands.
"""

from __future__ import annotations

import typer

from evals.commands import answers, cases, conclusions, runs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure search and answers on questions whose pages are known.\n\n\b\n"
    "pageglass eval run --cases cases.jsonl --out run.json",
    short_help="Measure search and answers on your own cases.",
)

app.command(short_help="Propose cases from an index, for you to review.")(cases.new)
app.command(short_help="Accept, edit or reject cases on a local page.")(cases.review)
app.command(short_help="Save a logged question as a case.")(cases.save)
app.command(short_help="Make cases of MMLongBench-Doc and FinanceBench files.")(cases.convert)

app.command(short_help="Ask every case and record what became of it.")(runs.run)
app.command(short_help="Tables of how good a run's rankings are.")(runs.table)
app.command(short_help="Compare two runs over the same cases.")(runs.compare)
app.command(short_help="Say which step lost each failed case.")(runs.misses)

app.command(short_help="Tables of how good a run's answers are.")(answers.answers)
app.command(short_help="Have a model judge a run's answers by the page images.")(answers.judge)
app.command(short_help="How often a judge agrees with a person.")(answers.agreement)
app.command(short_help="Ask what tempts to make something up.")(answers.probes)

app.command(short_help="Fit the support below which answers are declined.")(conclusions.calibrate)
app.command(short_help="Show a run, and what it got wrong, in one HTML file.")(conclusions.report)
app.command(short_help="Fail where a metric dropped by more than its noise.")(conclusions.gate)

"""`pageglass eval report`: one HTML file that shows what a run measured, and what it got wrong.

The file needs nothing else: plots are SVG, page images are in it. Questions, answers, names and
pages are others' words: everything is escaped, and the page forbids itself scripts and the network.
"""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals import answers, plots, ranking
from evals.answers import Mean, answer_contained, answer_matches, figure
from evals.files import replace_file
from evals.gate import Change, check_comparable, compare
from evals.intervals import FEW_DOCUMENTS, wilson
from evals.misses import CaseMiss, Misses, find_misses
from evals.ranking import RankingTables, Row
from evals.runs import SEARCH, AnswerRecord, Outcome, PageKey, Run
from generate.citations import verify
from ingest.catalog import Catalog
from ingest.database import Database
from pageglass import __version__
from pageglass.errors import DocumentNotFound, MissingExtra, PageNotFound
from pageglass.images import ImageStore
from pageglass.text import one_line, printable
from pageglass.types import Box, Citation, Page, PageRef

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError:
    raise MissingExtra(
        "jinja2 is not installed: run pip install -e '.[evals]' -c constraints.txt in Pageglass's"
        " folder"
    ) from None

_SIDE = 1000
"""Longest side of a page's image in the report, in pixels: body text of an A4 page is legible."""
_QUALITY = 58
_MAX_IMAGE_BYTES = 24_000_000
"""Of all images together, so that the file opens on a phone; what is over is left out and said."""
_GOLD_SHOWN, _FOUND_SHOWN = 2, 3
_BINS = 10
_LONGEST_TEXT = 1200


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table: ``value`` as text, with its interval, and the number of cases where that
    is the figure's own, as text where it has them, and its share, 0..1, for a bar behind it."""

    value: str
    interval: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: what it shows, its columns, and rows of a name and cells."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report. ``plots`` are SVG with a caption each."""

    id: str
    title: str
    text: str = ""
    plots: tuple[tuple[Markup, str], ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A page in the report. ``image`` is a data URI, None where there is none to show; ``marks``
    are boxes (shares of the page) of words that matter there."""

    id: str
    name: str
    number: int
    note: str
    gold: bool
    image: str | None
    width: int = 0
    height: int = 0
    marks: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Miss:
    """A case that went wrong, and where."""

    id: str
    case: str
    question: str
    document: str
    cause: str
    detail: str
    gold_answer: str
    answer: str
    status: str
    judged: str
    gold: tuple[Shown, ...]
    found: tuple[Shown, ...]
    more_gold: int = 0


@dataclass(slots=True)
class Pages:
    """The pages of a data folder, whoever owns it, as pictures to stand in an HTML file.

    Use it as a context manager. A folder without a catalog, or a page that is not in it, has no
    picture; so has one that would make the file too large.
    """

    folder: Path
    most_bytes: int = _MAX_IMAGE_BYTES
    left_out: int = 0
    _bytes: int = 0
    _database: Database | None = None
    _drawn: dict[PageKey, tuple[str, int, int] | None] = field(
        default_factory=dict[PageKey, "tuple[str, int, int] | None"]
    )

    def __enter__(self) -> Pages:
        path = self.folder / "catalog.sqlite"
        if path.exists():
            self._database = Database(path, read_only=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def page(self, key: PageKey) -> Page | None:
        """The page, if it is there."""
        if self._database is None:
            return None
        try:
            return Catalog(self._database).page(PageRef(key[0], key[1] - 1))
        except (DocumentNotFound, PageNotFound):
            return None

    def picture(self, key: PageKey) -> tuple[str, int, int] | None:
        """A data URI of the page's image made small, its width and height."""
        if key not in self._drawn:
            page = self.page(key)
            self._drawn[key] = None if page is None else self._draw(page)
        drawn = self._drawn[key]
        if drawn is None:
            return None
        if self._bytes + len(drawn[0]) > self.most_bytes:
            self.left_out += 1
            return None
        self._bytes += len(drawn[0])
        return drawn

    def _draw(self, page: Page) -> tuple[str, int, int] | None:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(
                io.BytesIO(ImageStore(self.folder / "images").get(page.image))
            ) as image:
                image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
                written = io.BytesIO()
                image.convert("RGB").save(written, "WEBP", quality=_QUALITY)
                size = image.size
        except (KeyError, OSError, UnidentifiedImageError):
            return None
        data = base64.b64encode(written.getvalue()).decode("ascii")
        return f"data:image/webp;base64,{data}", *size


def write_report(
    run: Run, target: Path, *, pages: Pages, other: Run | None = None, misses: int = 50
) -> int:
    """Write the report of a run to ``target``; how many misses it shows.

    ``other`` is an earlier run to compare with; RunError where it is of other cases. At most
    ``misses`` misses are shown. StoreError where the file cannot be written.
    """
    if other is not None:
        check_comparable(run, other)
    lost = find_misses(run)
    outcomes = {outcome.case.id: outcome for outcome in run.outcomes}
    shown = [
        _miss(n, run, outcomes[one.id], one, pages) for n, one in enumerate(lost.cases[:misses])
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        run=run,
        title=one_line(Path(run.cases_file).name),
        version=__version__,
        tiles=_tiles(run),
        facts=_facts(run, other),
        sections=[section for section in _sections(run, other, lost) if section is not None],
        notes=_notes(run, len(lost.cases) - len(shown), pages.left_out),
        misses=shown,
        missed=len(lost.cases),
        asked=lost.asked,
    )
    # File names that are no UTF-8 hold lone surrogates.
    replace_file(target, html.encode("utf-8", "replace"))
    return len(shown)


# What went wrong


def draft_right(outcome: Outcome) -> float | None:
    """Whether what would be said without a threshold is right, 0..1, by the gold value; 0 where
    there is no answer, None where nothing was said or can be compared."""
    answer = outcome.answer
    if answer is None or not answer.draft or answer.support is None:
        return None
    if not outcome.case.answerable:
        return 0.0
    if answer.extractive:
        return answer_contained(outcome.case, answer.draft)
    return answer_matches(outcome.case, answer.draft)


def threshold_of(run: Run) -> float | None:
    """Below which support this run's answers were declined: the setting where that agrees with
    them (a calibrated collection has its own), else the lowest support of one that was given."""
    answered = [o.answer for o in run.outcomes if o.answer is not None and o.answer.draft]
    given = [a.support for a in answered if not a.declined and a.support is not None]
    withheld = [a.support for a in answered if a.declined and a.support is not None]
    if not answered:
        return None
    setting = run.settings.get("answer.threshold")
    if setting is None and isinstance(section := run.settings.get("answer"), dict):
        setting = section.get("threshold")
    low, high = max(withheld, default=0.0), min(given, default=1.0)
    if isinstance(setting, int | float) and low < setting <= high:
        return float(setting)
    return high if given else None


def _miss(number: int, run: Run, outcome: Outcome, lost: CaseMiss, pages: Pages) -> Miss:
    answer = outcome.answer
    id = f"miss-{number + 1}"
    found = outcome.rankings.get(SEARCH, ())
    ranks = {page: rank for rank, page in enumerate(found, start=1)}
    why = {one.page: f"{one.cause}: {one.detail}" for one in lost.pages}
    quotes: dict[PageKey, list[str]] = {}
    if answer is not None:
        for citation in answer.citations:
            quotes.setdefault(citation.page, []).append(citation.quote)
    evidence = [outcome.case.quote] if outcome.case.quote else []

    def show(key: PageKey, *, gold: bool, n: int) -> Shown:
        rank = ranks.get(key)
        notes = [f"found as number {rank}" if rank else "not found"] if gold else [f"number {rank}"]
        if gold and key in why:
            notes.append(one_line(why[key]))
        if key in quotes:
            notes.append("cited")
        if not gold and key in outcome.gold_pages:
            notes.append("holds the evidence")
        page, drawn = pages.page(key), pages.picture(key)
        words = [*quotes.get(key, ()), *(evidence if key in outcome.gold_pages else ())]
        marks = () if page is None else _marks(page, words)
        name = run.documents[key[0]].name if key[0] in run.documents else key[0]
        image, width, height = drawn or (None, 0, 0)
        return Shown(
            id=f"{id}-{'gold' if gold else 'found'}-{n}",
            name=one_line(name),
            number=key[1],
            note=", ".join(notes),
            gold=gold or key in outcome.gold_pages,
            image=image,
            width=width,
            height=height,
            marks=marks,
        )

    gold = sorted(outcome.gold_pages)
    judgement = outcome.judgement
    judged = ""
    if judgement is not None and judgement.correct is not None:
        verdict = "right" if judgement.correct else "wrong"
        judged = f"{verdict}, says {one_line(judgement.model)}: {_text(judgement.reason)}"
    return Miss(
        id=id,
        case=one_line(outcome.case.id),
        question=_text(outcome.case.question),
        document=one_line(outcome.case.document),
        cause=lost.cause,
        detail=one_line(lost.detail),
        gold_answer=_text(outcome.case.gold) if outcome.case.answerable else "",
        answer="" if answer is None else _text(answer.text),
        status=_status(answer),
        judged=judged,
        gold=tuple(show(key, gold=True, n=n) for n, key in enumerate(gold[:_GOLD_SHOWN])),
        found=tuple(show(key, gold=False, n=n) for n, key in enumerate(found[:_FOUND_SHOWN])),
        more_gold=max(0, len(gold) - _GOLD_SHOWN),
    )


def _marks(page: Page, quotes: Iterable[str]) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for quote in dict.fromkeys(quotes):
        claim = Citation(page.ref, "", page.label, quote, (), verified=False)
        boxes.extend(verify(claim, {page.ref: page}).boxes)
    return tuple(boxes)


def _status(answer: AnswerRecord | None) -> str:
    if answer is None:
        return "not asked"
    support = "" if answer.support is None else f", support {answer.support:.2f}"
    return f"{answer.status.replace('_', ' ')}{support}, {answer.seconds:.1f} s"


def _text(text: str) -> str:
    plain = printable(text).strip()
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[:_LONGEST_TEXT]} …"


# Figures


def _tiles(run: Run) -> list[tuple[str, Cell]]:
    """The figures at the top."""
    ranked = ranking.row(ranking.score_cases(run.outcomes, run.k))
    searched = [(_title(name), _scored(ranked[name])) for name in [*ranked][:2]]
    tiles: list[tuple[str, Mean]] = []
    for of, name in (
        ("judged", "answers judged right"),
        ("contains", "quotes hold the answer"),
        ("match", "answers match"),
    ):
        if (mean := figure(of, run.outcomes)).n:
            tiles.append((name, mean))
            break
    tiles += [
        ("unanswerable declined", figure("declined_unanswerable", run.outcomes)),
        ("answerable declined", figure("declined_answerable", run.outcomes)),
    ]
    return searched + [(name, _cell(mean)) for name, mean in tiles if mean.n]


def _facts(run: Run, other: Run | None) -> list[tuple[str, str]]:
    answerable = sum(outcome.case.answerable for outcome in run.outcomes)
    models = Counter(o.answer.model for o in run.outcomes if o.answer is not None)
    facts = [
        ("Cases", f"{answerable} answerable, {len(run.outcomes) - answerable} unanswerable"),
        ("File of cases", f"{one_line(run.cases_file)} (SHA-256 {run.cases_sha256[:12]})"),
        (
            "Documents",
            f"{len(run.documents)}, {sum(d.pages for d in run.documents.values()):,} pages",
        ),
        ("Searched", "each case's document" if run.scope == "document" else "all documents"),
        ("Profile", f"{run.profile}, Pageglass {run.version}"),
        ("Answers by", ", ".join(one_line(model) for model in models) or "not asked for"),
        ("Made", run.made_at),
    ]
    return facts + ([("Compared with", f"the run of {other.made_at}")] if other else [])


def _notes(run: Run, not_shown: int, left_out: int) -> list[tuple[str, list[str]]]:
    """What the figures leave out: a line with a count, and the lines it counts."""
    unjudged = [
        f"{outcome.case.id}: {outcome.judgement.reason}"
        for outcome in run.outcomes
        if outcome.judgement is not None and outcome.judgement.correct is None
    ]
    noted = Counter(
        note
        for outcome in run.outcomes
        for note in (*outcome.notes, *(outcome.answer.notes if outcome.answer else ()))
    )
    notes = [
        (f"{_count(len(run.excluded), 'case')} could not be used", list(run.excluded)),
        (
            f"{_count(len(run.failed_documents), 'document')} could not be indexed",
            list(run.failed_documents),
        ),
        (f"{_count(len(run.remarks), 'remark')} on the cases", list(run.remarks)),
        (f"{_count(len(unjudged), 'answer')} not judged, and so not scored", unjudged),
        (
            "Not all went as asked",
            [f"{_count(count, 'time')}: {note}" for note, count in noted.items()],
        ),
        (f"{not_shown} more went wrong than are shown (--misses)", [""] * (not_shown > 0)),
        (
            f"{_count(left_out, 'page image')} left out, to bound the size of this file",
            [""] * (left_out > 0),
        ),
    ]
    return [(title, [one_line(line) for line in lines if line]) for title, lines in notes if lines]


def _sections(run: Run, other: Run | None, lost: Misses) -> Iterable[Section | None]:
    yield _comparison(run, other) if other else None
    tables = ranking.ranking_tables(run)
    if tables.cases:
        yield _recall(tables)
        yield _ablation(tables)
    yield _answers(run)
    yield _declines(run)
    yield _latency(run)
    yield _attribution(lost)


def _comparison(run: Run, other: Run) -> Section:
    changes, _ = compare(run, other)
    return Section(
        "comparison",
        "Compared with the earlier run",
        "The same cases, one by one. A change counts where its whole 95 % interval, by document,"
        f" lies on one side of nought; that of fewer than {FEW_DOCUMENTS} documents is too narrow.",
        grids=(
            Grid(
                "Change by metric",
                ("before", "now", "better by", "verdict", "cases"),
                tuple((_title(change.metric), _changed(change)) for change in changes),
            ),
        ),
    )


def _changed(change: Change) -> tuple[Cell, ...]:
    verdict = "better" if change.low > 0 else "within the noise"
    if change.few:
        verdict = "too few documents"
    elif change.dropped:
        verdict = "dropped"
    return (
        Cell(f"{change.old:.3f}"),
        Cell(f"{change.new:.3f}"),
        Cell(f"{change.gain:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}"),
        Cell(verdict),
        Cell(str(change.cases)),
    )


def _recall(tables: RankingTables) -> Section:
    overall = {"all": tables.variants[0].scores}
    evidence = tables.groups.get("evidence", {})
    grids = [_ranked(tables, "By kind of evidence", {**overall, **evidence})]
    grids += [
        _ranked(tables, f"By {kind}", rows)
        for kind, rows in tables.groups.items()
        if kind != "evidence"
    ]
    return Section(
        "recall",
        "Recall by kind of evidence",
        f"The share of the pages with the evidence that are among the first {tables.k}."
        f" {_INTERVALS}",
        plots=(_dots("recall", tables, evidence or overall),),
        grids=tuple(grids),
    )


def _ablation(tables: RankingTables) -> Section:
    rows = {variant.ranking: variant.scores for variant in tables.variants}
    return Section(
        "ablation",
        "What each part gives",
        "The same questions ranked as users get it (search), without reranking, by each way to fuse"
        f" the lists, by each retriever alone, and without it. {_INTERVALS}",
        plots=(_dots("ablation", tables, rows),),
        grids=(_ranked(tables, "By ranking", rows),),
    )


_INTERVALS = (
    "Intervals are of 95 %, by document; a group of one document has none. The number of cases"
    " stands beside each name."
)


def _dots(id: str, tables: RankingTables, rows: Mapping[str, Row]) -> tuple[Markup, str]:
    """A plot of recall, and its caption."""
    recall = ranking.names(tables.k)[1]
    dots = [
        plots.Interval(one_line(name), mean.value, mean.low, mean.high, mean.cases)
        for name, row in rows.items()
        if (mean := row.get(recall)) is not None
    ]
    svg = plots.intervals(dots, name=id, label=_title(recall))
    return Markup(svg), f"{_title(recall)} with its interval"  # noqa: S704


def _ranked(tables: RankingTables, caption: str, rows: Mapping[str, Row]) -> Grid:
    metrics = ranking.names(tables.k)
    return Grid(
        caption,
        (*map(_title, metrics), "cases"),
        tuple(
            (
                one_line(name),
                (*(_scored(row[m]) for m in metrics), Cell(str(row[metrics[0]].cases))),
            )
            for name, row in rows.items()
            if row
        ),
    )


def _scored(mean: ranking.Mean) -> Cell:
    if mean.low is None or mean.high is None:
        return Cell(f"{mean.value:.3f}", "", mean.value)
    return Cell(f"{mean.value:.3f}", f"{mean.low:.2f} to {mean.high:.2f}", mean.value)


def _title(metric: str) -> str:
    name, _, k = metric.partition("@")
    plain = {"mrr": "MRR", "ndcg": "nDCG", "f1": "token F1", "page-recall": "page recall"}
    return plain.get(name, name.replace("_", " ")) + (f"@{k}" if k else "")


def _answers(run: Run) -> Section | None:
    if all(outcome.answer is None for outcome in run.outcomes):
        return None
    tables = answers.answer_tables(run)
    rows = {
        **tables.overall,
        **{f"format {name}": row for name, row in tables.by_format.items()},
        **{f"evidence {name}": row for name, row in tables.by_source.items()},
    }
    kinds = {
        "Answers by format and kind of evidence": ("match", "contains", "f1", "judged"),
        "Citations": ("citation_precision", "citation_recall", "verified_quotes"),
        "Declined": ("declined_unanswerable", "declined_answerable"),
    }
    return Section(
        "answers",
        "Answers",
        "Match is by the rules of MMLongBench-Doc; contains says whether quotes hold the gold"
        " value; precision and recall of citations are of pages. Each figure stands with its 95 %"
        " interval, by document, and n, its number of cases.",
        grids=tuple(
            grid
            for caption, names in kinds.items()
            if (grid := _figures(caption, names, rows)).rows
        ),
    )


def _figures(caption: str, names: Sequence[str], rows: Mapping[str, answers.Row]) -> Grid:
    used = [name for name in names if any(row[name].n for row in rows.values())]
    return Grid(
        caption,
        tuple(map(_title, used)),
        tuple(
            (one_line(name), tuple(_cell(row[f]) for f in used))
            for name, row in rows.items()
            if any(row[f].n for f in used)
        ),
    )


def _declines(run: Run) -> Section | None:
    drafted = [o for o in run.outcomes if o.answer is not None and o.answer.support is not None]
    if not drafted:
        return None
    threshold = threshold_of(run)
    supports: dict[bool, list[float]] = {True: [], False: []}
    for outcome in drafted:
        assert outcome.answer is not None
        support = outcome.answer.support if outcome.answer.draft else 0.0
        supports[outcome.case.answerable].append(support or 0.0)
    bins = _bins(drafted)
    shown = [
        (
            Markup(plots.declines(supports[True], supports[False], threshold, name="declines")),  # noqa: S704
            "share of cases that a threshold declines",
        )
    ]
    if bins:
        shown.append(
            (
                Markup(plots.reliability(bins, threshold, name="reliability")),  # noqa: S704
                "share of drafts that are right, by support",
            )
        )
    marked = "" if threshold is None else f" The threshold in use, {threshold:.2g}, is marked."
    return Section(
        "declines",
        "Reliability of declines",
        "Support is how surely the quoted words answer; below the threshold nothing is said. A"
        " draft, what would be said without a threshold, is right where it has the gold value, and"
        f" never where there is no answer.{marked}",
        plots=tuple(shown),
        grids=(
            Grid(
                "Drafts by support",
                ("right", "drafts"),
                tuple(
                    (
                        f"{bin.support - 0.5 / _BINS:.1f} to {bin.support + 0.5 / _BINS:.1f}",
                        (
                            Cell(f"{bin.share:.2f}", f"{bin.low:.2f} to {bin.high:.2f}", bin.share),
                            Cell(str(bin.cases)),
                        ),
                    )
                    for bin in bins
                ),
            ),
        ),
    )


def _bins(outcomes: Iterable[Outcome]) -> list[plots.Bin]:
    values: dict[int, list[float]] = {}
    for outcome in outcomes:
        value = draft_right(outcome)
        if value is not None and outcome.answer is not None:
            at = min(_BINS - 1, int((outcome.answer.support or 0.0) * _BINS))
            values.setdefault(at, []).append(value)
    found: list[plots.Bin] = []
    for at, of in sorted(values.items()):
        low, high = wilson(round(sum(of)), len(of))
        found.append(plots.Bin((at + 0.5) / _BINS, sum(of) / len(of), low, high, len(of)))
    return found


def _latency(run: Run) -> Section | None:
    records = [outcome.answer for outcome in run.outcomes if outcome.answer is not None]
    searches = [outcome.seconds for outcome in run.outcomes]
    if not searches:
        return None
    kinds = {"search": searches} | (
        {"answer, searching included": [record.seconds for record in records]} if records else {}
    )
    took = [record.seconds for record in records] or searches
    marks = [("median", _quantile(took, 0.5)), ("90 %", _quantile(took, 0.9))]
    grids = [
        Grid(
            "Seconds",
            ("median", "90 %", "99 %", "longest"),
            tuple(
                (
                    name,
                    tuple(Cell(f"{_quantile(of, q):.2f}") for q in (0.5, 0.9, 0.99, 1)),
                )
                for name, of in kinds.items()
            ),
        )
    ]
    if any(record.input_tokens or record.output_tokens for record in records):
        kinds_of_tokens = {
            "in": [record.input_tokens for record in records],
            "out": [record.output_tokens for record in records],
        }
        grids.append(
            Grid(
                "Tokens",
                ("mean an answer", "most", "all answers"),
                tuple(
                    (
                        name,
                        tuple(
                            Cell(f"{count:,.0f}")
                            for count in (statistics.fmean(of), max(of), sum(of))
                        ),
                    )
                    for name, of in kinds_of_tokens.items()
                ),
            )
        )
    what = "an answer" if records else "a search"
    return Section(
        "latency",
        "Latency and cost",
        f"How long {what} took on the machine that made the run, and what models counted.",
        plots=((Markup(plots.distribution(took, marks, name="latency")), f"seconds for {what}"),),  # noqa: S704
        grids=tuple(grids),
    )


def _attribution(lost: Misses) -> Section | None:
    cases, of_pages = lost.case_counts(), lost.page_counts()
    if not cases:
        return None
    drawn = plots.bars(
        [(cause, sum(counts)) for cause, counts in cases.items()], name="causes", label="cases"
    )
    captions = {"Failed cases by cause": cases, "Missed pages with the evidence by cause": of_pages}
    return Section(
        "causes",
        "What lost the misses",
        f"{len(lost.cases)} of {lost.asked} cases failed, each by the step that lost it: no text on"
        " the page, in no retriever's list, ranked too low by all, lost in the fusion, to a"
        " near-duplicate or in reranking; or declined, not cited, cited but wrong.",
        plots=((Markup(drawn), "failed cases by cause"),),  # noqa: S704
        grids=tuple(
            Grid(
                caption,
                ("in the right document", "in a wrong one", "all"),
                tuple(
                    (cause, tuple(Cell(str(count)) for count in (*counts, sum(counts))))
                    for cause, counts in of.items()
                ),
            )
            for caption, of in captions.items()
            if of
        ),
    )


def _cell(mean: Mean) -> Cell:
    """A figure of answers. Each rests on cases of its own, so that their number stands with it."""
    if mean.mean is None:
        return Cell("–")
    known = mean.low is not None and mean.high is not None
    ends = f"{mean.low:.2f} to {mean.high:.2f}, " if known else ""
    return Cell(f"{mean.mean:.3f}", f"{ends}n={mean.n}", mean.mean)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]

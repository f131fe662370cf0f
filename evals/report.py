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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api.printing import one_line, printable
from evals import answers, plots
from evals.answers import FIGURES, Mean, answer_contained, answer_matches, mean_of
from evals.calibrate import Rate
from evals.gate import METRICS, Change, check_comparable, gate
from evals.runs import SEARCH, AnswerRecord, Outcome, PageKey, Run
from generate.citations import verify
from ingest.catalog import Catalog
from ingest.database import Database
from pageglass import __version__
from pageglass.errors import DocumentNotFound, MissingExtra, PageNotFound, StoreError, UsageError
from pageglass.images import ImageStore
from pageglass.types import Box, Citation, Page, PageRef

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError:
    raise MissingExtra(
        "jinja2 is not installed: run pip install -e '.[evals]' -c constraints.txt in Pageglass's"
        " folder"
    ) from None

_SIDE = 720
"""Longest side of a page's image in the report, in pixels: body text of an A4 page is legible."""
_QUALITY = 62
_MAX_IMAGE_BYTES = 24_000_000
"""Of all images together, so that the file opens on a phone; what is over is left out and said."""
_GOLD_SHOWN, _FOUND_SHOWN = 2, 3
_BINS = 10
_LONGEST_TEXT = 1200
_LENGTHS = ((10, "1 to 10 pages"), (50, "11 to 50 pages"), (10**9, "more than 50 pages"))


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table: ``value`` as text, with its interval as text where it has one, and its
    share, 0..1, for a bar behind it."""

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
    failed = missed(run)
    shown = [_miss(n, run, one, cause, pages) for n, (one, cause) in enumerate(failed[:misses])]
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
        sections=[section for section in _sections(run, other, failed) if section is not None],
        notes=_notes(run, len(failed) - len(shown), pages.left_out),
        misses=shown,
        missed=len(failed),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        written = target.with_name(target.name + ".new")
        # File names that are no UTF-8 hold lone surrogates.
        written.write_bytes(html.encode("utf-8", "replace"))
        written.replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    return len(shown)


# What went wrong


def missed(run: Run) -> list[tuple[Outcome, str]]:
    """The cases that went wrong, and what of them users saw go wrong."""
    found = [(outcome, _cause(outcome, run.k)) for outcome in run.outcomes]
    return [(outcome, cause) for outcome, cause in found if cause is not None]


def _cause(outcome: Outcome, k: int) -> str | None:
    answer = outcome.answer
    if not outcome.case.answerable:
        wrong = answer is not None and not answer.declined
        return "answered, though there is no answer" if wrong else None
    ranking = outcome.rankings.get(SEARCH, ())
    if outcome.scored and not outcome.gold_pages & set(ranking[:k]):
        return f"not among the first {k} pages"
    if answer is None:
        return None
    if answer.declined:
        return "declined"
    if right(outcome) not in (None, 1.0):
        cited = {citation.page for citation in answer.citations}
        if outcome.scored and not cited & outcome.gold_pages:
            return "found, but not cited"
        return "cited, but answered wrongly"
    return None


def right(outcome: Outcome) -> float | None:
    """Whether the answer is right, 0..1: as the judge says where there is one, else whether quotes
    hold the gold value, else whether the answer matches it; None where nothing can be said."""
    for figure in (answers.judged, answers.contains, answers.match):
        if (value := figure(outcome)) is not None:
            return value
    return None


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


def _miss(number: int, run: Run, outcome: Outcome, cause: str, pages: Pages) -> Miss:
    answer = outcome.answer
    id = f"miss-{number + 1}"
    ranking = outcome.rankings.get(SEARCH, ())
    ranks = {page: rank for rank, page in enumerate(ranking, start=1)}
    quotes: dict[PageKey, list[str]] = {}
    if answer is not None:
        for citation in answer.citations:
            quotes.setdefault(citation.page, []).append(citation.quote)

    def show(key: PageKey, *, gold: bool, n: int) -> Shown:
        rank = ranks.get(key)
        notes = [f"found as number {rank}" if rank else "not found"] if gold else [f"number {rank}"]
        if key in quotes:
            notes.append("cited")
        if not gold and key in outcome.gold_pages:
            notes.append("holds the evidence")
        page, drawn = pages.page(key), pages.picture(key)
        marks = () if page is None else _marks(page, quotes.get(key, ()))
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
        cause=cause,
        gold_answer=_text(outcome.case.answer or "") if outcome.case.answerable else "",
        answer="" if answer is None else _text(answer.text),
        status=_status(answer),
        judged=judged,
        gold=tuple(show(key, gold=True, n=n) for n, key in enumerate(gold[:_GOLD_SHOWN])),
        found=tuple(show(key, gold=False, n=n) for n, key in enumerate(ranking[:_FOUND_SHOWN])),
        more_gold=max(0, len(gold) - _GOLD_SHOWN),
    )


def _marks(page: Page, quotes: Iterable[str]) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for quote in quotes:
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
    tiles = [
        (f"hit@{run.k}", _ranking(run, run.outcomes, "hit")),
        (f"page recall@{run.k}", _ranking(run, run.outcomes, "page_recall")),
    ]
    for figure, name in (
        ("judged", "answers judged right"),
        ("contains", "quotes hold the answer"),
        ("match", "answers match"),
    ):
        if (mean := _mean(FIGURES[figure], run.outcomes)).n:
            tiles.append((name, mean))
            break
    tiles += [
        ("unanswerable declined", _mean(FIGURES["declined_unanswerable"], run.outcomes)),
        ("answerable declined", _mean(FIGURES["declined_answerable"], run.outcomes)),
    ]
    return [(name, _cell(mean)) for name, mean in tiles if mean.n]


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
        (f"{len(run.excluded)} cases could not be used", list(run.excluded)),
        (f"{len(run.failed_documents)} documents failed", list(run.failed_documents)),
        (f"{len(unjudged)} answers were not judged: they are not scored", unjudged),
        ("Not all went as asked", [f"{count} times: {note}" for note, count in noted.items()]),
        (f"{not_shown} further misses are not shown (--misses)", [""] * (not_shown > 0)),
        (f"{left_out} page images are left out, to bound the file's size", [""] * (left_out > 0)),
    ]
    return [(title, [one_line(line) for line in lines if line]) for title, lines in notes if lines]


def _sections(
    run: Run, other: Run | None, failed: Sequence[tuple[Outcome, str]]
) -> Iterable[Section | None]:
    yield _comparison(run, other) if other else None
    yield _recall(run)
    yield _ablation(run)
    yield _answers(run)
    yield _declines(run)
    yield _latency(run)
    yield _attribution(failed)


def _comparison(run: Run, other: Run) -> Section:
    there = [
        name
        for name, values in METRICS.items()
        if all(any(values(o, r.k) is not None for o in r.outcomes) for r in (run, other))
    ]
    changes = gate(run, other, there)[0] if there else []
    return Section(
        "comparison",
        "Compared with the earlier run",
        "The same cases, one by one. A change counts where its whole 95 % interval lies on one side"
        " of nought.",
        grids=(
            Grid(
                "Change by metric",
                ("before", "now", "better by", "verdict", "cases"),
                tuple((_title(c.metric, run.k), _changed(c)) for c in changes),
            ),
        ),
    )


def _changed(change: Change) -> tuple[Cell, ...]:
    verdict = "dropped" if change.dropped else "better" if change.low > 0 else "within the noise"
    return (
        Cell(f"{change.old:.3f}"),
        Cell(f"{change.new:.3f}"),
        Cell(f"{change.gain:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}"),
        Cell(verdict),
        Cell(str(change.cases)),
    )


def _recall(run: Run) -> Section | None:
    groups: dict[str, list[Outcome]] = {}
    scored = run.scored()
    if not scored:
        return None
    for source in sorted({source for outcome in scored for source in outcome.case.sources}):
        groups[source] = [o for o in scored if source in o.case.sources]
    by_source = len(groups)
    facts = {d.name: d for d in run.documents.values()}
    others: dict[str, Callable[[Outcome], bool]] = {}
    low = 0
    for most, name in _LENGTHS:
        others[name] = lambda o, low=low, most=most: (
            o.case.document in facts and low < facts[o.case.document].pages <= most
        )
        low = most
    others["mostly scanned"] = lambda o: _scanned(run, o) is True
    others["mostly with a text layer"] = lambda o: _scanned(run, o) is False
    for name, within in others.items():
        if chosen := [o for o in scored if within(o)]:
            groups[name] = chosen
    means = {
        one_line(name): _ranking(run, outcomes, "page_recall") for name, outcomes in groups.items()
    }
    drawn = [
        plots.Interval(name, m.mean, m.low, m.high, m.n)
        for name, m in list(means.items())[: by_source or None]
        if m.mean is not None and m.low is not None and m.high is not None
    ]
    label = f"page recall@{run.k}"
    rows = {"all": scored, **groups}
    return Section(
        "recall",
        "Recall by kind of evidence",
        "The share of the pages with the evidence that are among the first"
        f" {run.k}. Whiskers are 95 % intervals, by document; the number of cases stands beside.",
        plots=((Markup(plots.intervals(drawn, name="recall", label=label)), label),),  # noqa: S704
        grids=(
            Grid(
                "By kind of evidence, length and kind of document",
                (*_titles(run.k), "cases"),
                tuple((one_line(name), _ranked_row(run, of)) for name, of in rows.items()),
            ),
        ),
    )


def _scanned(run: Run, outcome: Outcome) -> bool | None:
    for facts in run.documents.values():
        if facts.name == outcome.case.document:
            return facts.scanned * 2 > facts.pages
    return None


_METRICS = ("hit", "page_recall", "mrr", "ndcg")


def _titles(k: int) -> tuple[str, ...]:
    return tuple(_title(name, k) for name in _METRICS)


def _title(metric: str, k: int) -> str:
    plain = {"mrr": "MRR", "ndcg": f"nDCG@{k}", "f1": "token F1"}
    at_k = {"hit": f"hit@{k}", "page_recall": f"page recall@{k}"}
    return plain.get(metric) or at_k.get(metric) or metric.replace("_", " ")


def _ranked_row(run: Run, outcomes: Sequence[Outcome], ranking: str = SEARCH) -> tuple[Cell, ...]:
    means = [_ranking(run, outcomes, metric, ranking) for metric in _METRICS]
    return (*(_cell(mean) for mean in means), Cell(str(means[0].n)))


def _ablation(run: Run) -> Section | None:
    scored = run.scored()
    names = list(dict.fromkeys(name for outcome in scored for name in outcome.rankings))
    names.sort(key=lambda name: (name != SEARCH, name.partition(":")[0], name))
    if not names:
        return None
    means = {name: _ranking(run, scored, "page_recall", name) for name in names}
    drawn = [
        plots.Interval(name, m.mean, m.low, m.high, m.n)
        for name, m in means.items()
        if m.mean is not None and m.low is not None and m.high is not None
    ]
    label = f"page recall@{run.k}"
    return Section(
        "ablation",
        "What each part gives",
        "The same questions ranked by each retriever alone, by each way to fuse them, before and"
        " after near-duplicates are grouped, and as users get it (search).",
        plots=((Markup(plots.intervals(drawn, name="ablation", label=label)), label),),  # noqa: S704
        grids=(
            Grid(
                "By ranking",
                (*_titles(run.k), "cases"),
                tuple((one_line(name), _ranked_row(run, scored, name)) for name in names),
            ),
        ),
    )


def _answers(run: Run) -> Section | None:
    if all(outcome.answer is None for outcome in run.outcomes):
        return None
    tables = answers.answer_tables(run)
    used = [name for name in FIGURES if tables.overall["all"][name].n]
    rows = {
        **tables.overall,
        **{f"format {name}": row for name, row in tables.by_format.items()},
        **{f"evidence {name}": row for name, row in tables.by_source.items()},
    }
    return Section(
        "answers",
        "Answers",
        "Match is by the rules of MMLongBench-Doc; contains says whether quotes hold the gold"
        " value; precision and recall of citations are of pages.",
        grids=(
            Grid(
                "Answers by format and kind of evidence",
                tuple(_title(name, run.k) for name in used),
                tuple(
                    (one_line(name), tuple(_cell(row[figure]) for figure in used))
                    for name, row in rows.items()
                    if any(row[figure].n for figure in used)
                ),
            ),
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
        low, high = Rate(round(sum(of)), len(of)).interval
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


def _attribution(failed: Sequence[tuple[Outcome, str]]) -> Section | None:
    causes = Counter(cause for _, cause in failed).most_common()
    if not causes:
        return None
    drawn = plots.bars(causes, name="causes", label="cases")
    return Section(
        "causes",
        "What lost the misses",
        "Each case that went wrong counts once, with the first step that lost it.",
        plots=((Markup(drawn), "misses by cause"),),  # noqa: S704
        grids=(
            Grid(
                "Misses by cause",
                ("cases",),
                tuple((cause, (Cell(str(count)),)) for cause, count in causes),
            ),
        ),
    )


def _ranking(run: Run, outcomes: Iterable[Outcome], metric: str, ranking: str = SEARCH) -> Mean:
    def values(outcome: Outcome) -> Sequence[float]:
        if ranking not in outcome.rankings:
            return ()
        as_search = {SEARCH: outcome.rankings[ranking]}
        value = METRICS[metric](outcome.model_copy(update={"rankings": as_search}), run.k)
        return () if value is None else (value,)

    return _mean(values, outcomes)


def _mean(values: Callable[[Outcome], Sequence[float]], outcomes: Iterable[Outcome]) -> Mean:
    by_document: dict[str, list[float]] = {}
    for outcome in outcomes:
        by_document.setdefault(outcome.case.document, []).extend(values(outcome))
    return mean_of({name: of for name, of in by_document.items() if of})


def _cell(mean: Mean) -> Cell:
    if mean.mean is None or mean.low is None or mean.high is None:
        return Cell("–")
    return Cell(f"{mean.mean:.3f}", f"{mean.low:.2f} to {mean.high:.2f}", mean.mean)


def _quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def check_target(target: Path) -> None:
    """UsageError where the report cannot be called so."""
    if target.is_dir():
        raise UsageError(f"{target} is a folder: name a file (--out report.html)")

"""What one evaluation recorded: every case, every ranking of pages, every answer.

A run is one JSON file. Tables, intervals, comparisons, the attribution of misses and the report
are made of run files; none of them asks a question again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evals.cases import Case
from evals.files import replace_file
from pageglass.errors import PageglassError, UsageError
from pageglass.types import AnswerStatus, TextSource

FORMAT: Literal[1] = 1
"""The version of the file's format."""

ScopeName = Literal["document", "collection"]
PageKey = tuple[str, Annotated[int, Field(ge=1)]]
"""A document's id and a page's 1-based position in it."""

DEPTH = 50
"""How much of each ranking a run keeps: deeper than this adds less than .01 to MRR."""

SEARCH = "search"
"""The ranking that users get: fused, grouped, and reranked where the profile has a model."""

GROUPED, UNGROUPED = "grouped", "ungrouped"
"""The fusion in use, not reranked, with near-duplicates grouped and not."""

RETRIEVER, FUSION, WITHOUT = "retriever:", "fusion:", "without:"
"""What the names of other rankings begin with; a retriever's or a fusion's name follows."""


class RunError(PageglassError):
    """A run's file cannot be read, or two runs cannot be compared."""

    code = "run"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GoldPage(_Record):
    """A page that holds the evidence, and what ingestion read of it: ``characters`` of text, and
    where they are from. ``failed`` names the stages that failed on it.

    ``ranks`` are its ranks, from 1, among the candidates that retrievers gave into the fusion, by
    retriever; where it is no one's, ``deeper`` is the best rank in a search for more, if any.
    """

    page: PageKey
    characters: int
    text_source: TextSource
    failed: tuple[str, ...] = ()
    ranks: dict[str, int] = Field(default_factory=dict[str, int])
    deeper: int | None = None


class CitationRecord(_Record):
    """A citation of an answer."""

    page: PageKey
    quote: str
    verified: bool


class AnswerRecord(_Record):
    """An answer, and what it cost. ``support`` is 0..1: how surely the quoted words answer, None
    where no model was asked; below the threshold the answer is ``not_found``. ``draft`` is what
    would have been said without a threshold. ``seconds`` are those of the whole answer, searching
    included."""

    text: str
    status: AnswerStatus
    citations: tuple[CitationRecord, ...]
    support: float | None
    draft: str
    model: str
    extractive: bool
    seconds: float
    input_tokens: int = 0
    output_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def declined(self) -> bool:
        """Whether it says that nothing was found. What nothing supports is an answer all the
        same."""
        return self.status == "not_found"


class Judgement(_Record):
    """What a judge said of an answer; ``correct`` is None where it was down or talked nonsense, and
    ``reason`` says then why. Such a case is excluded and counted, never scored."""

    model: str
    prompt: str
    correct: bool | None
    reason: str = ""


class Outcome(_Record):
    """A case, and what became of it.

    ``rankings`` are lists of at most DEPTH pages, best first, by name: ``retriever:NAME`` for each
    retriever alone; ``without:NAME`` for all but it; ``fusion:rrf``, ``fusion:minmax`` and
    ``fusion:dbsf``, with the weights in use, for all of them together, grouped as the settings have
    it; ``ungrouped`` and ``grouped`` for the fusion in use before and after near-duplicates are
    grouped; and ``search``, what users get. ``stands_for`` has pairs: a page that another one
    shows in ``search``, and that other page. ``seconds`` are those of a search.
    """

    case: Case
    gold: tuple[GoldPage, ...]
    rankings: dict[str, tuple[PageKey, ...]]
    stands_for: tuple[tuple[PageKey, PageKey], ...] = ()
    seconds: float
    notes: tuple[str, ...] = ()
    answer: AnswerRecord | None = None
    judgement: Judgement | None = None

    @property
    def gold_pages(self) -> frozenset[PageKey]:
        """The pages that hold the evidence."""
        return frozenset(gold.page for gold in self.gold)

    @property
    def scored(self) -> bool:
        """Whether its ranking can be right or wrong: it is answerable and has gold pages."""
        return self.case.answerable and bool(self.gold)


class ProbeOutcome(_Record):
    """A question that tempts to make something up, and whether the answer did. ``fell_for_it`` is
    None where the answer cannot be told; ``reason`` says why. ``present`` is the control of
    ``absent``: what was asked for is there, and ``fell_for_it`` is true where that was denied."""

    kind: Literal["absent", "present", "negative_pages", "trap"]
    id: str
    question: str
    document: str
    answer: AnswerRecord
    fell_for_it: bool | None
    reason: str = ""


class DocumentFacts(_Record):
    """A document that was searched. ``scanned`` counts pages whose text is from OCR or absent."""

    name: str
    pages: int
    scanned: int


class Run(_Record):
    """One evaluation. ``settings`` are those that shape results; ``excluded`` has a line for each
    case that could not be used, ``remarks`` on what of the others counts less than it seems, and
    ``failed_documents`` for each document that could not be indexed.
    ``collection`` None: all were searched. ``made_at`` is UTC, ISO 8601."""

    format: Literal[1] = FORMAT
    version: str
    made_at: str
    cases_file: str
    cases_sha256: str
    collection: str | None = None
    scope: ScopeName
    k: Annotated[int, Field(ge=1, le=DEPTH)]
    profile: str
    settings: dict[str, Any]
    documents: dict[str, DocumentFacts]
    outcomes: tuple[Outcome, ...]
    probes: tuple[ProbeOutcome, ...] = ()
    excluded: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    failed_documents: tuple[str, ...] = ()

    def scored(self) -> Sequence[Outcome]:
        """The outcomes whose rankings can be right or wrong."""
        return [outcome for outcome in self.outcomes if outcome.scored]


def read_run(path: Path) -> Run:
    """A run from its file; RunError where it cannot be read, or has two cases of one id."""
    try:
        run = Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "format":
            raise RunError(
                f"{path} was written by another version of Pageglass (format {first['input']!r},"
                f" and this one reads {FORMAT}): make the run again"
            ) from None
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise RunError(f"{path} is not a run of `pageglass eval run`: {what}") from None
    times = Counter(outcome.case.id for outcome in run.outcomes)
    if twice := [id for id, count in times.items() if count > 1]:
        raise RunError(f"{path} has more than one case {twice[0]!r}: make the run again")
    return run


def replaced(path: Path) -> Run | None:
    """The run that a new one at ``path`` would replace, if any. UsageError where more than a run
    would be lost: a file of another kind, or judgements and probes, which cost a model's work."""
    if not path.is_file():
        return None
    try:
        run = read_run(path)
    except RunError:
        raise UsageError(f"{path} is there and is no run: choose another name") from None
    if run.probes or any(outcome.judgement for outcome in run.outcomes):
        raise UsageError(f"{path} has judgements or probes: choose another name")
    return run


def write_run(run: Run, path: Path) -> None:
    """Write a run to its file; StoreError."""
    replace_file(path, (run.model_dump_json() + "\n").encode())

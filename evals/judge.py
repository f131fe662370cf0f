"""A model that judges answers: it sees the pages, the reference and the answer, and says why.

What it is told is pinned (pageglass.prompts) and its name is recorded with every judgement. Pages
and answers are data between marks. A judge that cannot be reached or whose reply is not what it was
asked for leaves a case unjudged: it is excluded and counted, never scored. Judges err; have
``agreement`` say how often, on answers that a person judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from api.services import Services
from evals.answers import Mean, mean_of
from evals.cases import Case
from evals.intervals import Columns, bootstrap, units
from evals.partial import Partial, Resumed, fingerprint, say_nothing
from evals.runs import Judgement, Outcome, PageKey, Run, RunError
from generate.json_objects import json_objects
from pageglass import prompts
from pageglass.errors import (
    DocumentNotFound,
    ImageError,
    MissingExtra,
    ModelError,
    ModelServerError,
    NotInProfile,
    PageNotFound,
    StoreError,
    UsageError,
)
from pageglass.types import Page
from retrieval.vlms import Message, PromptImage, Reply, Vlm
from retrieval.vlms.images import prompt_image

VERDICT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "correct": {"type": "boolean"}},
    "required": ["reason", "correct"],
    "additionalProperties": False,
}
"""What a judgement must look like. The reason comes first: it binds the verdict."""

PREFERENCE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["A", "B", "tie"]},
    },
    "required": ["reason", "better"],
    "additionalProperties": False,
}
"""What a comparison must look like."""

KEY_VARIABLE = "PAGEGLASS_JUDGE_KEY"
"""The environment variable of the key of the judge's server."""

_TOKENS = 512
_GIVE_UP_AFTER = 3
"""So many questions in a row that its server did not answer: it is not asked again."""

NONSENSE = "the judge's reply is not the JSON object that it was asked for"

Better = Literal["first", "second", "tie"]


def judge_model(
    services: Services, url: str | None, model: str | None, *, key: str | None = None
) -> Vlm:
    """The model at an OpenAI-compatible server's ``url`` (the first it lists where ``model`` is
    None), or the one that answers. Close the former. UsageError where ``url`` is no address,
    NotInProfile where there is neither."""
    if url is None:
        if services.vlm is None:
            raise NotInProfile(
                f"the profile {services.settings.profile} has no model that can judge: name its"
                " server, --url http://host:8000/v1"
            )
        return services.vlm
    if not re.match(r"https?://[^\s/]", url) or not url.isprintable():
        raise UsageError("--url must be an address such as http://host:8000/v1")
    from retrieval.vlms.openai import OpenAIVlm

    return OpenAIVlm(url, model, api_key=key, section="judge")


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two answers to a case is better; None where the judge did not say, ``reason`` says
    then why. Orders that contradict one another are a tie."""

    case: Case
    better: Better | None
    reason: str
    model: str
    prompt: str


class Judge:
    """Judges answers by the page images. Blocks; each judgement takes at most ``seconds``."""

    def __init__(
        self, vlm: Vlm, services: Services, *, seconds: float = 120.0, pages: int = 8
    ) -> None:
        """``services`` owns the data folder that the judged runs' documents are in. The judge is
        shown at most so many ``pages``: those with the evidence first, then those cited."""
        self._vlm = vlm
        self._services = services
        self._seconds = seconds
        self._pages = pages
        self._silent = 0

    def work(self, what: str, *runs: Run) -> str:
        """The fingerprint of judging these runs; earlier judgements are no part of it."""
        answers = [
            [one.model_dump(mode="json", exclude={"judgement", "rankings"}) for one in run.outcomes]
            for run in runs
        ]
        prompt = prompts.judge_prompt()
        return fingerprint(
            command=what, answers=answers, prompt=prompt, model=self._vlm.name, pages=self._pages
        )

    def judge(self, outcome: Outcome) -> Judgement:
        """Is the answer of ``outcome`` correct? It must have one; of a declined one that is known
        without a judge. MissingExtra is all that this raises of a model's errors."""
        assert outcome.answer is not None
        prompt = prompts.judge_prompt()
        case = outcome.case
        asked = prompts.to_judge(case.question, _reference(case), outcome.answer.text)
        said = self._ask(prompts.JUDGING, _pages([outcome]), asked, VERDICT)
        if isinstance(said, str):
            return Judgement(model=self._vlm.name, prompt=prompt, correct=None, reason=said)
        verdict = _read(said, VERDICT)
        correct = verdict["correct"] if verdict is not None else None
        if verdict is None or not isinstance(correct, bool):
            return Judgement(model=said.model, prompt=prompt, correct=None, reason=NONSENSE)
        reason = str(verdict["reason"])
        return Judgement(model=said.model, prompt=prompt, correct=correct, reason=reason)

    def prefer(self, first: Outcome, second: Outcome) -> Preference:
        """Which of two answers to one case is better? Asked in both orders. Equal texts are a tie,
        and the judge is not asked."""
        assert first.answer is not None
        assert second.answer is not None
        prompt = prompts.preference_prompt()
        case = first.case
        texts = (first.answer.text, second.answer.text)
        if texts[0] == texts[1]:
            return Preference(case, "tie", "the answers are the same", "", prompt)
        found: list[Better] = []
        reasons: list[str] = []
        model = self._vlm.name
        orders: tuple[Mapping[str, Better], ...] = (
            {"A": "first", "B": "second", "tie": "tie"},
            {"A": "second", "B": "first", "tie": "tie"},
        )
        for names in orders:
            shown = texts if names["A"] == "first" else texts[::-1]
            asked = prompts.to_compare(case.question, _reference(case), *shown)
            said = self._ask(prompts.PREFERRING, _pages([first, second]), asked, PREFERENCE)
            if isinstance(said, str):
                return Preference(case, None, said, model, prompt)
            model = said.model
            verdict = _read(said, PREFERENCE)
            better = verdict["better"] if verdict is not None else None
            if verdict is None or not isinstance(better, str) or better not in names:
                return Preference(case, None, NONSENSE, model, prompt)
            found.append(names[better])
            reasons.append(str(verdict["reason"]))
        agreed = found[0] == found[1]
        better = found[0] if agreed else "tie"
        reason = reasons[0] if agreed else "it prefers another one when they change places"
        return Preference(case, better, reason, model, prompt)

    def _ask(
        self, system: str, keys: Sequence[PageKey], asked: str, schema: Mapping[str, Any]
    ) -> Reply | str:
        """The judge's reply, or why there is none."""
        if self._silent >= _GIVE_UP_AFTER:
            return f"the judge was not asked: it had not answered {_GIVE_UP_AFTER} times in a row"
        try:
            parts = self._shown(keys[: self._pages])
        except (DocumentNotFound, PageNotFound, StoreError, ImageError) as error:
            return f"its pages cannot be shown: {error}"
        try:
            reply = self._vlm.reply(
                [Message("system", (system,)), Message("user", (*parts, asked))],
                tokens=_TOKENS,
                seconds=self._seconds,
                schema=schema,
            )
        except MissingExtra:
            raise
        except ModelError as error:
            self._silent += isinstance(error, ModelServerError)
            return _by_flags(str(error))
        self._silent = 0
        return reply

    def _shown(self, keys: Sequence[PageKey]) -> list[str | PromptImage]:
        parts: list[str | PromptImage] = []
        for number, (document, position) in enumerate(keys, start=1):
            page = self._services.page(document, position)
            name = self._services.document(document).name
            parts += [
                prompts.page_heading(number, name, page.label),
                self._image(page),
                prompts.page_text(number, page.text),
            ]
        return parts

    def _image(self, page: Page) -> PromptImage:
        data = self._services.page_image(page)
        return prompt_image(data, longest_side=self._vlm.image_pixels)


_FLAGS = {
    "judge.url": "--url",
    "judge.seconds": "--seconds",
    "judge.api_key": KEY_VARIABLE,
    "models.judge": "--model",
}


def _by_flags(message: str) -> str:
    """What is wrong with the judge's server in the words of the command line, where there are no
    settings for it."""
    for setting, flag in _FLAGS.items():
        message = message.replace(setting, flag)
    return message


def _reference(case: Case) -> str:
    if not case.answerable:
        return prompts.UNANSWERABLE
    return case.gold or prompts.NO_REFERENCE


def _pages(outcomes: Sequence[Outcome]) -> list[PageKey]:
    """The pages with the evidence, then those cited, each once."""
    gold = [gold.page for outcome in outcomes for gold in outcome.gold]
    cited = [
        citation.page
        for outcome in outcomes
        if outcome.answer is not None
        for citation in outcome.answer.citations
    ]
    return list(dict.fromkeys([*gold, *cited]))


def _read(reply: Reply, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The one JSON object that ends ``reply`` and has the schema's keys; None where there is no
    such or more than one: a model that repeats its prompt repeats what pages say a verdict is."""
    found = [one for one in json_objects(reply.text) if one.keys() == schema["properties"].keys()]
    if reply.cut or len(found) != 1 or not reply.text.rstrip("` \n\t").endswith("}"):
        return None
    return found[0] if isinstance(found[0]["reason"], str) else None


def judge_run(
    run: Run,
    judge: Judge,
    *,
    told: Callable[[Outcome], None] = lambda outcome: None,
    keep: Path | None = None,
    resumed: Resumed = say_nothing,
) -> Run:
    """``run`` with a judgement of every answer that was given. What was declined needs none, and
    loses what it had; a verdict of an earlier time stays where there is none now. ``told`` hears of
    every outcome that was seen to. Verdicts are kept in ``keep`` (evals.partial)."""
    outcomes: list[Outcome] = []
    with Partial(keep, Judgement, judge.work("judge", run), resumed) as kept:
        for outcome in run.outcomes:
            outcomes.append(_judged(outcome, judge, kept))
            told(outcomes[-1])
    return run.model_copy(update={"outcomes": tuple(outcomes)})


def _judged(outcome: Outcome, judge: Judge, kept: Partial[Judgement]) -> Outcome:
    given = outcome.answer is not None and not outcome.answer.declined
    judgement = None
    if given:
        judgement = kept.once(
            outcome.case.id,
            lambda: judge.judge(outcome),
            keep=lambda verdict: verdict.correct is not None,
        )
    before = outcome.judgement
    if judgement and judgement.correct is None and before and before.correct is not None:
        judgement = before
    return outcome.model_copy(update={"judgement": judgement})


def new_verdicts(before: Iterable[Outcome], after: Iterable[Outcome]) -> int:
    """How many of the same cases, in the same order, got a verdict that is not an earlier one."""
    return sum(
        now.judgement is not None
        and now.judgement.correct is not None
        and now.judgement is not old.judgement
        for old, now in zip(before, after, strict=False)
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge found of a run. ``correct`` is of the answers it judged; ``right`` is of all
    cases but the excluded, a declined one being right where there is no answer. ``excluded`` has a
    line on each answer that was not judged."""

    correct: Mean
    right: Mean
    declined: int
    models: Sequence[str]
    prompts: Sequence[str]
    excluded: Sequence[str]


def judged(run: Run) -> Judged:
    """Sum up the judgements of a run; RunError where it has none."""
    answered = [o for o in run.outcomes if o.answer is not None]
    judgements = [o.judgement for o in answered if o.judgement is not None]
    if not judgements:
        raise RunError("no answer of the run was judged: `pageglass eval judge RUN` does that")
    correct: dict[str, list[float]] = {}
    right: dict[str, list[float]] = {}
    declined = 0
    excluded: list[str] = []
    for outcome in answered:
        name = outcome.case.document
        judgement = outcome.judgement
        if judgement is not None and judgement.correct is not None:
            correct.setdefault(name, []).append(float(judgement.correct))
            right.setdefault(name, []).append(float(judgement.correct))
        elif outcome.answer is not None and outcome.answer.declined:
            declined += 1
            right.setdefault(name, []).append(float(not outcome.case.answerable))
        else:
            reason = judgement.reason if judgement is not None else "it was never asked"
            excluded.append(f"{outcome.case.id}: {reason}")
    return Judged(
        correct=mean_of(correct),
        right=mean_of(right),
        declined=declined,
        models=sorted({judgement.model for judgement in judgements}),
        prompts=sorted({judgement.prompt for judgement in judgements}),
        excluded=excluded,
    )


def compare(
    run: Run,
    other: Run,
    judge: Judge,
    *,
    told: Callable[[Preference], None] = lambda one: None,
    keep: Path | None = None,
    resumed: Resumed = say_nothing,
) -> list[Preference]:
    """Which run's answer is better, for every case that both answered; RunError where there is no
    such case. Preferences are kept in ``keep`` (evals.partial)."""
    others = {o.case.id: o for o in other.outcomes if o.answer is not None}
    pairs = [
        (outcome, others[outcome.case.id])
        for outcome in run.outcomes
        if outcome.answer is not None
        and outcome.case.id in others
        and others[outcome.case.id].case.question == outcome.case.question
    ]
    if not pairs:
        raise RunError("the two runs have no case in common that both answered")
    found: list[Preference] = []
    with Partial(keep, Preference, judge.work("compare", run, other), resumed) as kept:
        for first, second in pairs:
            found.append(
                kept.once(
                    first.case.id,
                    partial(judge.prefer, first, second),
                    keep=lambda one: one.better is not None,
                )
            )
            told(found[-1])
    return found


def preferred(preferences: Iterable[Preference]) -> Mean:
    """How often the first run's answer is the better one, 0..1; a tie is half."""
    share = {"first": 1.0, "second": 0.0, "tie": 0.5}
    values: dict[str, list[float]] = {}
    for one in preferences:
        if one.better is not None:
            values.setdefault(one.case.document, []).append(share[one.better])
    return mean_of(values)


# Agreement with a person


class Label(BaseModel):
    """What a person said of an answer of a run; other fields, such as a note, are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    correct: StrictBool


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a judge and a person agree on ``n`` answers. ``accuracy`` is the share of equal verdicts.
    ``kappa`` is Cohen's (1960): 1 is full agreement, 0 what chance would give; None where chance
    alone would make them agree on all. The intervals are of 95 %, by document. ``table`` counts
    (person, judge). ``excluded`` has a line on every label that could not be used."""

    n: int
    accuracy: Mean
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    table: Mapping[tuple[bool, bool], int]
    excluded: Sequence[str]


def read_labels(path: Path) -> tuple[dict[str, bool], list[str]]:
    """Labels by case id, and a line on each that cannot be used; RunError where the file cannot be
    read."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise RunError(f"cannot read {path}: {reason}") from None
    labels: dict[str, bool] = {}
    excluded: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label = Label.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            excluded.append(f"line {number}: {where} {first['msg']}".replace("  ", " "))
            continue
        if label.id in labels:
            excluded.append(f"line {number}: id {label.id!r} stands twice")
        else:
            labels[label.id] = label.correct
    return labels, excluded


def agreement(run: Run, labels: Mapping[str, bool]) -> Agreement:
    """Compare the judgements of a run with a person's ``labels``; RunError where there is nothing
    to compare."""
    known = {outcome.case.id: outcome for outcome in run.outcomes}
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    excluded: list[str] = []
    for id, label in labels.items():
        outcome = known.get(id)
        if outcome is None:
            excluded.append(f"{id}: the run has no such case")
        elif outcome.judgement is None:
            excluded.append(f"{id}: it was not judged")
        elif outcome.judgement.correct is None:
            excluded.append(f"{id}: not judged: {outcome.judgement.reason}")
        else:
            pair = (label, outcome.judgement.correct)
            pairs.setdefault(outcome.case.document, []).append(pair)
    flat = [pair for document in pairs.values() for pair in document]
    if not flat:
        why = f" ({excluded[0]})" if excluded else ""
        raise RunError(f"no label is of an answer that was judged{why}")
    low, high = _kappa_interval(pairs.values())
    return Agreement(
        n=len(flat),
        accuracy=mean_of({d: [float(a == b) for a, b in found] for d, found in pairs.items()}),
        kappa=cohen_kappa(flat),
        kappa_low=low,
        kappa_high=high,
        table={verdicts: flat.count(verdicts) for verdicts in _VERDICTS},
        excluded=excluded,
    )


_VERDICTS = tuple((person, judge) for person in (True, False) for judge in (True, False))


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement of two raters, -1..1 (Cohen 1960); None
    where expected agreement is 1, and of no pairs."""
    counts = [np.array(pairs.count(verdicts), float) for verdicts in _VERDICTS]
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = float(_kappa(*counts))
    return None if math.isnan(kappa) else kappa


def _kappa(both: Columns, person: Columns, judge: Columns, neither: Columns) -> Columns:
    """Cohen's kappa, given how often each of _VERDICTS was given; NaN where it is not defined."""
    n = both + person + judge + neither
    observed = (both + neither) / n
    first, second = (both + person) / n, (both + judge) / n
    expected = first * second + (1 - first) * (1 - second)
    return np.where(expected == 1, np.nan, (observed - expected) / (1 - expected))


def _kappa_interval(
    documents: Iterable[Sequence[tuple[bool, bool]]],
) -> tuple[float | None, float | None]:
    """The interval of kappa; draws in which it is not defined are left out."""
    counts = [[pairs.count(verdicts) for verdicts in _VERDICTS] for pairs in units(documents)]
    return bootstrap(counts, _kappa) or (None, None)

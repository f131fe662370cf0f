"""Answering models; one file per kind. Heavy imports live only in the files of this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pageglass.errors import ModelServerError
from pageglass.types import Page, PageRef, Usage
from retrieval.vlms import PromptImage

OnText = Callable[[str | None], None]
"""Called with each piece of an answer as it comes. None takes back what came so far: it did not
hold, and other text begins."""


class BrokenReply(ModelServerError):
    """The model's reply is not what it was asked for and cannot be read; it cost ``usage``."""

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants to know: words, a picture, or both. ``text`` holds what was read from
    the picture, too."""

    text: str
    picture: PromptImage | None = None


@dataclass(frozen=True, slots=True)
class ShownPage:
    """A page an answering model may look at. ``score`` is the fused score of the search."""

    page: Page
    document_name: str
    score: float


@dataclass(frozen=True, slots=True)
class Draft:
    """What an answering model says, before anything of it is checked.

    ``quotes`` are the words it rests on and the page it says they are from; None for a page it was
    not shown. ``support`` is how surely they answer the question, 0..1, calibrated so that 0.5 is a
    sensible cut; models that only say yes or no to that give 1 or 0. ``notes`` say what did not go
    as asked.
    """

    text: str
    quotes: tuple[tuple[PageRef | None, str], ...]
    support: float
    usage: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()


class AnsweringModel(Protocol):
    """Answers a question from pages. ``extractive`` ones only repeat words of the pages."""

    @property
    def name(self) -> str:
        """What the answer says answered."""
        ...

    @property
    def extractive(self) -> bool:
        """Whether answers only repeat words of the pages."""
        ...

    def generate(
        self,
        asked: Asked,
        pages: Sequence[ShownPage],
        *,
        seconds: float,
        objections: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Draft:
        """Answer from ``pages``, best first; what they say is data, never instruction.

        ``objections`` say what was wrong with this model's last answer to the same question.
        Raises ModelError, of which BrokenReply is worth asking again.
        """
        ...

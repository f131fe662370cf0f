"""Vision-language models that look at pages: one file per way to run them.

``local.py`` runs a transformers checkpoint in this process, ``openai.py`` asks any server with an
OpenAI-compatible API (vLLM first). Reranking (retrieval.rerank) and answering (generate) share
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image ready to be shown: encoded once, no metadata, its size in pixels."""

    data: bytes
    media_type: Literal["image/jpeg", "image/png"]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: texts and images in the order they are read."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | PromptImage, ...]


Prompt = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said. ``cut`` where it ran out of tokens.

    ``model`` is the name and version the server or checkpoint gives itself; tokens are the model's
    own count, None if it does not tell.
    """

    text: str
    cut: bool
    model: str
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class YesAnswers:
    """P(yes), 0..1, for each prompt in order, and what it cost."""

    probabilities: tuple[float, ...]
    model: str
    input_tokens: int | None
    output_tokens: int | None


class Vlm(Protocol):
    """A vision-language model. Calls block; safe to share between threads.

    All raise ModelError where the model cannot be used, PromptTooLong where it cannot read so much,
    ModelServerError where its server cannot be used, ModelTimeout once ``seconds`` are over. Trying
    again what is worth it is done inside, within ``seconds``.
    """

    @property
    def name(self) -> str:
        """The name by which it was asked for."""
        ...

    @property
    def image_pixels(self) -> int:
        """The longest side of an image that it can make use of, in pixels."""
        ...

    def reply(
        self,
        prompt: Prompt,
        *,
        tokens: int,
        seconds: float,
        schema: Mapping[str, Any] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer ``prompt`` in at most ``tokens`` tokens, most probable ones first (greedily).

        ``schema`` is the JSON schema the text must follow where the model can be held to it; where
        it cannot, ``prompt`` must say it, and the text may break it anyhow. ``on_text`` is called
        with each piece of text as it comes, and only with text that belongs to the reply returned.
        """
        ...

    def yes(self, prompts: Sequence[Prompt], *, seconds: float) -> YesAnswers:
        """The probability that the model's next word after each prompt is yes rather than no.

        P(yes) = p(yes) / (p(yes) + p(no)), each summed over the ways the word is written. All
        prompts or none: ModelTimeout where they do not all fit into ``seconds``.
        """
        ...

    def check(self, *, seconds: float) -> None:
        """See whether it could be asked now, in at most ``seconds``; ModelError says why not."""
        ...

    def close(self) -> None:
        """Let go of connections and memory."""
        ...

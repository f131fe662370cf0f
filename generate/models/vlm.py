"""Answers by a vision-language model that looks at the pages' images and reads their text.

How the model runs (in this process, on a server) is retrieval.vlms' matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from generate.containment import finished_part, plain_text
from generate.json_objects import json_objects
from generate.models import Asked, BrokenReply, Draft, OnText, ShownPage
from pageglass import prompts
from pageglass.errors import PromptTooLong
from pageglass.settings import AnswerSettings
from pageglass.types import PageRef, Usage
from retrieval.vlms import Message, PromptImage, Vlm
from retrieval.vlms.images import PromptImages

# Evidence first: what is quoted before the answer is written binds it.
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "found": {"type": "boolean"},
        "citations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"page": {"type": "integer"}, "quote": {"type": "string"}},
                "required": ["page", "quote"],
                "additionalProperties": False,
            },
        },
        "answer": {"type": "string"},
    },
    "required": ["found", "citations", "answer"],
    "additionalProperties": False,
}
"""What a reply must look like; page numbers are places among the pages shown, from 1."""

_MAX_QUOTES = 12
_TRANSCRIPTION_TOKENS = 512


class VlmAnsweringModel:
    """Shows pages to a vision-language model and reads its reply. As thread-safe as ``vlm``."""

    extractive = False

    def __init__(self, vlm: Vlm, images: PromptImages, settings: AnswerSettings) -> None:
        self._vlm = vlm
        self._images = images
        self._settings = settings

    @property
    def name(self) -> str:
        """The model's name."""
        return self._vlm.name

    def generate(
        self,
        asked: Asked,
        pages: Sequence[ShownPage],
        *,
        seconds: float,
        objections: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Draft:
        """Ask the model, of as many of the best pages as it can read.

        BrokenReply where its reply is no such JSON, PromptTooLong where it cannot read even one
        page, ModelServerError where it cannot be reached, ModelTimeout after ``seconds``.
        """
        ends = perf_counter() + seconds
        count = len(pages)
        while True:
            try:
                draft = self._once(asked, pages[:count], ends - perf_counter(), objections, on_text)
                break
            except PromptTooLong:
                if count <= 1:
                    raise
                count = (count + 1) // 2
        if count == len(pages):
            return draft
        note = f"{self.name} was shown {count} of {len(pages)} pages: it cannot read more at once"
        return replace(draft, notes=(note,))

    def _once(
        self,
        asked: Asked,
        pages: Sequence[ShownPage],
        seconds: float,
        objections: Sequence[str],
        on_text: OnText | None,
    ) -> Draft:
        began = perf_counter()
        parts: list[str | PromptImage] = []
        for number, page in enumerate(pages, start=1):
            parts += [
                prompts.page_heading(number, page.document_name, page.page.label),
                self._images.of(page.page),
                prompts.page_text(number, page.page.text),
            ]
        if asked.picture is not None:
            parts += [prompts.PICTURE, asked.picture]
        parts.append(prompts.question(asked.text, objections))
        stream = _AnswerStream(on_text) if on_text is not None else None
        reply = self._vlm.reply(
            [Message("system", (prompts.ANSWERING,)), Message("user", tuple(parts))],
            tokens=self._settings.tokens,
            seconds=seconds,
            schema=SCHEMA,
            on_text=stream.feed if stream is not None else None,
        )
        pictures = [part for part in parts if isinstance(part, PromptImage)]
        usage = Usage(
            purpose="answer",
            model=reply.model,
            images=tuple((picture.width, picture.height) for picture in pictures),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            seconds=perf_counter() - began,
        )
        try:
            return read_reply(reply.text, [page.page.ref for page in pages], usage=usage)
        except BrokenReply:
            if not reply.cut:
                raise
            raise BrokenReply(
                f"the reply did not fit into {self._settings.tokens:,} tokens (setting"
                " answer.tokens): it must be shorter",
                usage,
            ) from None


def transcribe(vlm: Vlm, picture: PromptImage, *, seconds: float) -> tuple[str, Usage]:
    """The text a picture shows, "" where it shows none, and what reading it cost."""
    began = perf_counter()
    reply = vlm.reply(
        [Message("user", (picture, prompts.TRANSCRIBING))],
        tokens=_TRANSCRIPTION_TOKENS,
        seconds=seconds,
    )
    text = plain_text(reply.text)
    usage = Usage(
        purpose="transcribe",
        model=reply.model,
        images=((picture.width, picture.height),),
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        seconds=perf_counter() - began,
    )
    return "" if text.strip(" .").upper() == prompts.NO_TEXT else text, usage


def read_reply(text: str, shown: Sequence[PageRef], *, usage: Usage | None = None) -> Draft:
    """The draft that a model's reply is; BrokenReply says, for the model to read, what is wrong.

    Words or a code fence around the JSON object are passed over. Pages that were not shown become
    None.
    """
    paid = (usage,) if usage is not None else ()
    fields = next((one for one in json_objects(text) if "answer" in one), None)
    if fields is None:
        raise BrokenReply("the reply is not the JSON object that was asked for", usage)
    found, answer, citations = (fields.get(key) for key in ("found", "answer", "citations"))
    if not isinstance(answer, str) or not isinstance(citations, list):
        raise BrokenReply('the reply must have "found", "citations" and "answer"', usage)
    quotes: dict[tuple[PageRef | None, str], None] = {}
    for citation in citations[:_MAX_QUOTES]:
        page = citation.get("page") if isinstance(citation, dict) else None
        quote = citation.get("quote") if isinstance(citation, dict) else None
        if not isinstance(quote, str) or not quote.strip():
            continue
        ref = None
        # To Python, true is a number.
        if isinstance(page, int) and not isinstance(page, bool) and 1 <= page <= len(shown):
            ref = shown[page - 1]
        quotes[(ref, quote.strip())] = None
    answer = plain_text(answer)
    # A model that is not held to the schema may write the word.
    is_found = str(found).lower() not in ("false", "no")
    support = 1.0 if is_found and answer else 0.0
    return Draft(answer, tuple(quotes), support, paid)


class _AnswerStream:
    """Hands on the value of "answer" while the JSON around it is still being written.

    Only text that can no longer become a link is handed on; the rest waits. Should it become one
    all the same, what was handed on is taken back in the end: what is heard is what is read.
    """

    # In a JSON string the quotes would be escaped: this can only be the key itself.
    _KEY = re.compile(r'(?<!\\)"answer"\s*:\s*"')
    _VALUE = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._raw = ""
        self._sent = ""

    def feed(self, piece: str) -> None:
        """Take the next piece of the reply."""
        self._raw += piece
        key = self._KEY.search(self._raw)
        if key is None:
            return
        value = self._VALUE.match(self._raw, key.end())
        if value is None:
            return
        try:
            text = str(json.loads(f'"{value[0]}"', strict=False))
        except ValueError:
            return
        ended = self._raw[value.end() : value.end() + 1] == '"'
        plain = plain_text(text if ended else finished_part(text))
        if ended and not plain.startswith(self._sent):
            self._on_text(None)
            self._sent = ""
        if plain.startswith(self._sent) and len(plain) > len(self._sent):
            self._on_text(plain[len(self._sent) :])
            self._sent = plain

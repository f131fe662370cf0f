"""Vision-language models in this process: SmolVLM, Qwen2.5-VL and whatever else transformers loads.

Which one a checkpoint is, its own config says.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pageglass.cancellation import current
from pageglass.errors import ModelError, ModelTimeout, PromptTooLong
from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint
from retrieval.torch_runtime import Batches, library, runtime
from retrieval.vlms import Prompt, PromptImage, Reply, YesAnswers

IMAGE_PIXELS = 1540
"""Longest side shown to a model that does not say what it can use, or could use more: the small
print of an A4 page is legible, and 28 x 28 pixels a token make about 2,100 tokens of it."""

_SIZES: Mapping[str, Literal["side", "area"]] = MappingProxyType(
    {
        # Every image is scaled, up too, to this longest side and cut into tiles.
        "idefics3": "side",
        "smolvlm": "side",
        # Images keep their size up to this many pixels.
        "qwen2_vl": "area",
        "qwen2_5_vl": "area",
        "qwen3_vl": "area",
    }
)
"""What ``longest_edge`` (``max_pixels``) means in a family's image processor, by model_type."""

_LOOK_SECONDS = 0.5
"""How often a call that waits for its turn looks whether it was called off."""

_YES = ("yes", "Yes", "YES", " yes", " Yes", " YES")
_NO = ("no", "No", "NO", " no", " No", " NO")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model ready to run. ``yes`` and ``no`` are the ids of the tokens that are these words,
    ``ends`` those after which it stops, ``context`` the most tokens that it can read and write."""

    model: Any
    processor: Any
    device: str
    dtype: Any
    yes: tuple[int, ...]
    no: tuple[int, ...]
    ends: frozenset[int]
    context: int | None


class LocalVlm:
    """Runs one checkpoint. Its weights load at the first call; threads take turns.

    ``seconds`` include the loading and the wait for one's turn. They are looked at after each
    token and each batch of pages: a call may take longer by as much as one of these takes.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: ModelSettings, *, image_pixels: int | None = None
    ) -> None:
        """``image_pixels`` is a longest side below the model's own: fewer tokens, faster. Reads
        small files of the checkpoint only; ModelError where they are missing."""
        self._checkpoint = checkpoint
        self._settings = settings
        own = _own_image_pixels(checkpoint)
        self._image_pixels = min(own, image_pixels or own)
        self._batches = Batches(settings.batch_pages)
        self._turn = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self._checkpoint.name

    @property
    def image_pixels(self) -> int:
        """The longest side of images it can make use of, in pixels."""
        return self._image_pixels

    def reply(
        self,
        prompt: Prompt,
        *,
        tokens: int,
        seconds: float,
        schema: Mapping[str, Any] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """See Vlm. Nothing here holds a model to ``schema``: the prompt must say it."""
        del schema
        with self._ready(seconds) as (loaded, ends):
            inputs = _inputs(loaded, [prompt])
            read = int(inputs["input_ids"].shape[1])
            if loaded.context is not None and read + tokens > loaded.context:
                raise PromptTooLong(
                    f"{self.name} can read and write {loaded.context:,} tokens, and the pages and"
                    f" the answer would take {read + tokens:,}: lower answer.pages,"
                    " answer.image_pixels or answer.tokens"
                )
            watch = _Watch(loaded.processor, read, ends, on_text)
            # One at a time: what does not fit is OutOfMemory.
            [written] = Batches(1).run(
                [inputs], lambda of: [_generate(loaded, of[0], tokens, watch).sequences[0, read:]]
            )
            ids = written.tolist()
            finished = bool(ids) and ids[-1] in loaded.ends
            current().check()
            if watch.stopped and not finished and len(ids) < tokens:
                raise self._late(seconds)
        return Reply(
            text=watch.finish(ids),
            cut=not finished,
            model=self._version,
            input_tokens=read,
            output_tokens=len(ids),
        )

    def yes(self, prompts: Sequence[Prompt], *, seconds: float) -> YesAnswers:
        """See Vlm. A prompt's probability does not depend on the others: only prompts that are
        alike but for their pixels share a batch, so that no row is padded."""
        alike: dict[Any, list[int]] = {}
        for position, prompt in enumerate(prompts):
            alike.setdefault(_shape(prompt), []).append(position)
        probabilities = [0.0] * len(prompts)
        read = 0
        with self._ready(seconds) as (loaded, ends):

            def answers(batch: Sequence[Prompt]) -> list[tuple[float, int]]:
                current().check()
                if time.monotonic() >= ends:
                    raise self._late(seconds)
                inputs = _inputs(loaded, batch)
                logits = _generate(loaded, inputs, tokens=1).logits[0].float()
                tokens_read = inputs["attention_mask"].sum(dim=1).tolist()
                yes = logits[:, loaded.yes].logsumexp(dim=1)
                no = logits[:, loaded.no].logsumexp(dim=1)
                # The softmax over the vocabulary has one denominator for both: it cancels out.
                return list(zip((yes - no).sigmoid().tolist(), tokens_read, strict=True))

            for positions in alike.values():
                results = self._batches.run([prompts[i] for i in positions], answers)
                for position, (probability, tokens_read) in zip(positions, results, strict=True):
                    probabilities[position] = probability
                    read += tokens_read
            if time.monotonic() >= ends:
                raise self._late(seconds)
        return YesAnswers(tuple(probabilities), self._version, read, len(prompts))

    def check(self, *, seconds: float) -> None:
        """See Vlm: it is loaded when first asked."""

    def close(self) -> None:
        """Let go of the weights; a call under way ends first, a later one loads them again."""
        with self._turn:
            self._loaded = None

    @contextmanager
    def _ready(self, seconds: float) -> Generator[tuple[_Loaded, float]]:
        """The loaded model to itself, and when the time is over."""
        ends = time.monotonic() + seconds
        while not self._turn.acquire(timeout=max(0.0, min(ends - time.monotonic(), _LOOK_SECONDS))):
            current().check()
            if time.monotonic() >= ends:
                raise self._late(seconds)
        try:
            if time.monotonic() >= ends:
                raise self._late(seconds)
            if self._loaded is None:
                self._loaded = _load(self._checkpoint, self._settings, self.image_pixels)
            if time.monotonic() >= ends:
                raise self._late(seconds)
            yield self._loaded, ends
        finally:
            self._turn.release()

    def _late(self, seconds: float) -> ModelTimeout:
        return ModelTimeout(
            f"{self.name} did not answer in {max(seconds, 0):.3g} s: allow it more"
            " (answer.seconds, rerank.seconds) or choose a smaller model"
        )

    @property
    def _version(self) -> str:
        return f"{self._checkpoint.manifest()['name']}@{self._checkpoint.revision[:12]}"


class _Watch:
    """Looks at a text while it is generated: hands on what is new of it, and stops it in time."""

    def __init__(
        self,
        processor: Any,
        start: int,
        ends: float,
        on_text: Callable[[str], None] | None,
    ) -> None:
        """``start`` is the length of the prompt, in tokens."""
        self._processor = processor
        self._start = start
        self._ends = ends
        self._on_text = on_text
        self._handed = ""
        self.stopped = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """After each token, as a stopping criterion: (1,) booleans, true to stop."""
        del scores
        if self._on_text is not None:
            text = self._decode(input_ids[0, self._start :])
            # A character may take several tokens; until the last, it reads as U+FFFD.
            self._hand_on(text.rstrip("\ufffd"))
        self.stopped = time.monotonic() >= self._ends or current().cancelled
        return input_ids.new_full((1,), self.stopped, dtype=library("torch").bool)

    def finish(self, ids: Sequence[int]) -> str:
        """Hand on what is left, and return the whole text."""
        text = self._decode(ids)
        if self._on_text is None:
            return text
        self._hand_on(text)
        return self._handed

    def _hand_on(self, text: str) -> None:
        new = text[len(self._handed) :]
        if new and self._on_text is not None and text.startswith(self._handed):
            self._handed = text
            self._on_text(new)

    def _decode(self, ids: Any) -> str:
        return self._processor.tokenizer.decode(ids, skip_special_tokens=True)


def _generate(loaded: _Loaded, inputs: Any, tokens: int, watch: _Watch | None = None) -> Any:
    transformers = library("transformers")
    return loaded.model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        # Some checkpoints punish repetition by default; a quote is one.
        repetition_penalty=1.0,
        stopping_criteria=transformers.StoppingCriteriaList([watch] if watch else []),
        return_dict_in_generate=True,
        output_logits=watch is None,
    )


def _inputs(loaded: _Loaded, prompts: Iterable[Prompt]) -> Any:
    """The tensors of prompts that are alike but for their pixels; ``input_ids`` (prompts, tokens).

    Marks of the chat template and of images in people's and pages' texts are read as plain text.
    """
    inputs = loaded.processor.apply_chat_template(
        [
            [{"role": m.role, "content": [_part(part) for part in m.parts]} for m in prompt]
            for prompt in prompts
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        sanitize_control_tokens=True,
        processor_kwargs={"padding": True},
    )
    return inputs.to(loaded.device, dtype=loaded.dtype)


def _part(part: str | PromptImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    from PIL import Image

    return {"type": "image", "image": Image.open(io.BytesIO(part.data)).convert("RGB")}


def _shape(prompt: Prompt) -> tuple[object, ...]:
    """What two prompts must have in common to take the same number of tokens."""
    return tuple(
        part if isinstance(part, str) else (part.width, part.height)
        for message in prompt
        for part in (message.role, *message.parts)
    )


def _own_image_pixels(checkpoint: Checkpoint) -> int:
    """The longest side of images that the checkpoint's processor keeps, at most IMAGE_PIXELS where
    it would take more tokens for more."""
    kind = _SIZES.get(str(checkpoint.config().get("model_type")))
    if kind is None:
        return IMAGE_PIXELS
    if checkpoint.has("preprocessor_config.json"):
        config = checkpoint.config("preprocessor_config.json")
    else:
        config = checkpoint.config("processor_config.json").get("image_processor") or {}
    size: Any = config.get("size")
    edge: Any = size.get("longest_edge") if isinstance(size, dict) else None
    edge = edge or config.get("max_pixels")
    if not isinstance(edge, int) or edge <= 0:
        return IMAGE_PIXELS
    # An area is that of a page here, half as high again as wide.
    return edge if kind == "side" else min(IMAGE_PIXELS, math.isqrt(edge * 3 // 2))


def _load(checkpoint: Checkpoint, settings: ModelSettings, image_pixels: int) -> _Loaded:
    if checkpoint.base is not None:
        raise ModelError(f"{checkpoint.name} is an adapter: name a model it was merged into")
    where = runtime(settings)
    transformers = library("transformers")
    families: Any = library("transformers.models.auto.modeling_auto")
    family = str(checkpoint.config().get("model_type"))
    if family not in families.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"{checkpoint.name} is a model of the family {family}, which does not talk about"
            " images: name a vision-language model, such as a SmolVLM or Qwen2.5-VL"
        )
    files: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoProcessor.from_pretrained(checkpoint.folder, **files)
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype=where.torch_dtype, output_loading_info=True, **files
        )
    except Exception as error:  # from missing files to shapes that do not match
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the checkpoint {checkpoint.name} does not load: {reason}: fetch it again"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"the checkpoint {checkpoint.name} lacks {len(missing)} weights, such as {missing[0]}:"
            " it is incomplete, or meant for another task"
        )
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"the checkpoint {checkpoint.name} has no chat template: name a model that was"
            " instructed (often called Instruct)"
        )
    if _SIZES.get(family) == "side":
        # It would enlarge smaller images up to its own size.
        processor.image_processor.size = {"longest_edge": image_pixels}
    tokenizer = processor.tokenizer
    # Should images of one size ever take different numbers of tokens.
    tokenizer.padding_side = "left"
    ends: Any = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    model.generation_config.eos_token_id = ends
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return _Loaded(
        model=model.eval().to(where.device),
        processor=processor,
        device=where.device,
        dtype=where.torch_dtype,
        yes=_words(tokenizer, _YES, checkpoint.name),
        no=_words(tokenizer, _NO, checkpoint.name),
        ends=frozenset(ends if isinstance(ends, list) else [ends]),
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def _words(tokenizer: Any, written: Sequence[str], name: str) -> tuple[int, ...]:
    """The ids of those ways to write a word that are one token."""
    ids = [tokenizer.encode(way, add_special_tokens=False) for way in written]
    single = sorted({way[0] for way in ids if len(way) == 1})
    if not single:
        raise ModelError(f"the tokenizer of {name} has no token for {written[0]!r}")
    return tuple(single)

"""all-MiniLM-L6-v2 on ONNX Runtime: one vector a chunk, and one vector a token, on a plain CPU.

The bundled model (``minilm_l6_v2/``, see its README) is built by ``minilm_l6_v2/export.py``. Only
sequences of equal length share a batch, so there is no padding, and a passage's vectors do not
depend on its neighbours. Nothing is loaded before the first text is split or encoded, and the
network is never touched.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pageglass.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

FloatRows = npt.NDArray[np.float32]
"""(rows, 384), each row of length 1."""
IntRows = npt.NDArray[np.int32]

DIMENSION = 384
MAX_PIECES = 256
"""Word pieces in one window, [CLS] and [SEP] included (the original model's limit)."""
OVERLAP = 16
"""Word pieces that neighbouring windows share, so that no piece is encoded without context."""
MAX_CONTEXT_PIECES = 64
"""Word pieces of a passage's context that are read before each of its windows."""
MAX_PAGE_PIECES = 4096
"""Word pieces of one text that are encoded; the rest is left out, which bounds memory (6.3 MB of
token vectors a page). A dense printed page has about 1,500."""
MAX_PAGE_CHARACTERS = 16 * MAX_PAGE_PIECES
"""Characters of one text that are looked at, for the same reason."""

BUNDLED = Path(__file__).with_name("minilm_l6_v2")
CHECKSUMS = "SHA256SUMS"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
PROJECTION = "projection.npy"

_CLS, _SEP = 101, 102
_BATCH_PIECES = 512
"""Pieces in one run of the model: equally long short chunks run together, long ones alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """A window of a text: its word pieces, and those of them that are this window's own.

    ``pieces`` (n,) are vocabulary ids without [CLS] and [SEP]; ``offsets`` (n, 2) their first and
    one-past-last character in the text; ``words`` (n,) the number of the word each belongs to.
    Neighbouring windows overlap: pieces ``own_start`` to ``own_end`` (exclusive) count for this
    one, and every piece of a text is owned by exactly one of its windows.
    """

    pieces: IntRows
    offsets: IntRows
    words: IntRows
    own_start: int
    own_end: int

    @property
    def span(self) -> tuple[int, int]:
        """First and one-past-last character of the window in the text."""
        return int(self.offsets[0, 0]), int(self.offsets[-1, 1])


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A text's vectors; an empty text has zero rows everywhere.

    ``chunks`` (n_chunks, 384) and ``tokens`` (n_tokens, 384) have rows of length 1: the means of
    whole windows, and the contextual vectors of single word pieces in the order of the text.
    ``spans`` (n_chunks, 2) and ``offsets`` (n_tokens, 2) are character positions in the text,
    end exclusive. ``pieces`` (n_tokens,) are vocabulary ids; rows with equal ``words`` (n_tokens,)
    are pieces of one word. A punctuation mark is a word of its own.
    """

    chunks: FloatRows
    spans: IntRows
    tokens: FloatRows
    pieces: IntRows
    offsets: IntRows
    words: IntRows


class MiniLM:
    """Encodes texts with the bundled all-MiniLM-L6-v2; safe to share between threads."""

    def __init__(self, *, threads: int | None = None, model_dir: Path | None = None) -> None:
        """Remember where the model is; it is loaded by the first text.

        ``threads`` is the number of cores one call may use (None: as many as this process has).
        """
        self._threads = threads
        self._dir = model_dir or BUNDLED
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None = None
        self._tokenizer: tokenizers.Tokenizer | None = None

    def chunks(self, text: str, *, reserved: int = 0) -> list[Chunk]:
        """Split ``text`` into windows of nearly equal size that end where words end.

        ``reserved`` pieces of each window are left to something else, at most MAX_CONTEXT_PIECES.
        At most MAX_PAGE_PIECES word pieces (and MAX_PAGE_CHARACTERS characters) are covered; what
        follows is left out. Raises ModelError when the tokenizer's file is missing or damaged.
        """
        encoding = self._load_tokenizer().encode(
            text[:MAX_PAGE_CHARACTERS], add_special_tokens=False
        )
        pieces = np.asarray(encoding.ids[:MAX_PAGE_PIECES], dtype=np.int32)
        offsets = np.asarray(encoding.offsets[:MAX_PAGE_PIECES], dtype=np.int32).reshape(-1, 2)
        words = np.asarray(encoding.word_ids[:MAX_PAGE_PIECES], dtype=np.int32)
        windows = _windows(words, MAX_PIECES - 2 - reserved)
        bounds = [0, *(_cut(words, b[0], a[1]) for a, b in pairwise(windows)), len(pieces)]
        return [
            Chunk(
                pieces[start:end],
                offsets[start:end],
                words[start:end],
                own_start=bounds[i] - start,
                own_end=bounds[i + 1] - start,
            )
            for i, (start, end) in enumerate(windows)
        ]

    def encode_passages(
        self, texts: Sequence[str], contexts: Sequence[str] | None = None
    ) -> list[Passage]:
        """One Passage a text, in order. A passage never depends on the others in the call.

        A text's context (its document's title, say) is read before every window, so that all
        vectors know of it, but has no rows of its own; what goes beyond MAX_CONTEXT_PIECES is left
        out. Raises ModelError when a model file is missing or differs from its recorded checksum.
        """
        heads = [self._context(context) for context in contexts or [""] * len(texts)]
        split = [
            self.chunks(text, reserved=len(head)) for text, head in zip(texts, heads, strict=True)
        ]
        states = iter(
            self._run(
                [
                    np.concatenate((head, chunk.pieces))
                    for head, chunks in zip(heads, split, strict=True)
                    for chunk in chunks
                ]
            )
        )
        return [
            _passage(chunks, [next(states) for _ in chunks], len(head))
            for head, chunks in zip(heads, split, strict=True)
        ]

    def _context(self, text: str) -> IntRows:
        encoding = self._load_tokenizer().encode(
            text[:MAX_PAGE_CHARACTERS], add_special_tokens=False
        )
        return np.asarray(encoding.ids[:MAX_CONTEXT_PIECES], dtype=np.int32)

    def encode_question(self, text: str) -> Passage:
        """The question's vectors; what goes beyond one window of 256 word pieces is left out.

        Raises ModelError as encode_passages does.
        """
        encoding = self._load_tokenizer().encode(
            text[:MAX_PAGE_CHARACTERS], add_special_tokens=False
        )
        size = min(len(encoding.ids), MAX_PIECES - 2)
        if size == 0:
            return _passage([], [])
        chunk = Chunk(
            np.asarray(encoding.ids[:size], dtype=np.int32),
            np.asarray(encoding.offsets[:size], dtype=np.int32),
            np.asarray(encoding.word_ids[:size], dtype=np.int32),
            own_start=0,
            own_end=size,
        )
        return _passage([chunk], self._run([chunk.pieces]))

    def projection(self) -> FloatRows:
        """(384, 128): what token vectors are multiplied by before they are stored (project.py).

        Raises ModelError as encode_passages does.
        """
        content = _checked(self._dir, PROJECTION)
        return np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32)

    def checksums(self) -> list[str]:
        """SHA-256 and name of each file that shapes the vectors. Raises ModelError."""
        _checked(self._dir, PROJECTION)
        return (self._dir / CHECKSUMS).read_text("utf-8").splitlines()

    def _run(self, sequences: Sequence[IntRows]) -> list[FloatRows]:
        """Last hidden states (n + 2, 384) of each sequence of n pieces, in order."""
        if not sequences:
            return []
        session = self._load_session()
        states: dict[int, FloatRows] = {}
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for length, equal in groupby(by_length, key=lambda i: len(sequences[i])):
            group = list(equal)
            size = max(1, _BATCH_PIECES // (length + 2))
            for batch in (group[at : at + size] for at in range(0, len(group), size)):
                ids = np.empty((len(batch), length + 2), dtype=np.int64)
                ids[:, 0], ids[:, -1] = _CLS, _SEP
                for row, i in enumerate(batch):
                    ids[row, 1:-1] = sequences[i]
                (hidden,) = session.run(
                    None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                )
                states.update(zip(batch, np.asarray(hidden), strict=True))
        return [states[i] for i in range(len(sequences))]

    def _load_tokenizer(self) -> tokenizers.Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                from tokenizers import Tokenizer

                self._tokenizer = Tokenizer.from_buffer(_checked(self._dir, TOKENIZER))
            return self._tokenizer

    def _load_session(self) -> onnxruntime.InferenceSession:
        with self._lock:
            if self._session is None:
                import onnxruntime

                model = _checked(self._dir, MODEL)
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self._threads or _cores()
                options.inter_op_num_threads = 1
                # Threads that spin while they wait take the cores from other questions.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                options.log_severity_level = 3  # its warnings are about the graph, not for users
                # The graph is fused by hand; ONNX Runtime's own fusions would make it slower.
                options.graph_optimization_level = (
                    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
                )
                try:
                    self._session = onnxruntime.InferenceSession(
                        model, options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # onnxruntime's exceptions share no narrower base
                    reason = str(error).splitlines()[0]
                    raise ModelError(f"onnxruntime cannot load {MODEL}: {reason}") from error
            return self._session


def _windows(words: IntRows, limit: int = MAX_PIECES - 2) -> list[tuple[int, int]]:
    """Overlapping ranges that cover all pieces, of nearly equal size, on word boundaries.

    No word has more than 100 pieces (WordPiece gives up at 100 characters), so a window always
    holds a whole word and gets further than its overlap.
    """
    windows: list[tuple[int, int]] = []
    start, total = 0, len(words)
    while total:
        left = total - start
        if left <= limit:
            windows.append((start, total))
            break
        count = -(-(left - OVERLAP) // (limit - OVERLAP))
        size = -(-(left + (count - 1) * OVERLAP) // count)
        end = start + size
        while end < start + limit and words[end] == words[end - 1]:
            end += 1
        end = _word_start(words, end)
        windows.append((start, end))
        start = _word_start(words, end - OVERLAP)
    return windows


def _word_start(words: IntRows, at: int) -> int:
    """The first piece of the word that piece ``at`` belongs to."""
    while at > 0 and words[at] == words[at - 1]:
        at -= 1
    return at


def _cut(words: IntRows, start: int, end: int) -> int:
    """Where a window's own pieces end: a word boundary amid the overlap from start to end."""
    return max(start, _word_start(words, (start + end) // 2))


def _passage(chunks: Sequence[Chunk], states: Sequence[FloatRows], context: int = 0) -> Passage:
    """Pool and cut hidden states (context + n + 2, 384), one per chunk, into a Passage."""
    if not chunks:
        none = np.empty((0, DIMENSION), dtype=np.float32)
        pairs = np.empty((0, 2), dtype=np.int32)
        ids = np.empty(0, dtype=np.int32)
        return Passage(chunks=none, spans=pairs, tokens=none, pieces=ids, offsets=pairs, words=ids)
    own = [slice(chunk.own_start, chunk.own_end) for chunk in chunks]
    return Passage(
        # Mean over all pieces, [CLS] and [SEP] included, as the model was trained.
        chunks=_unit(np.stack([state.mean(axis=0) for state in states])),
        spans=np.array([chunk.span for chunk in chunks], dtype=np.int32),
        tokens=_unit(
            np.concatenate([s[1 + context : -1][o] for s, o in zip(states, own, strict=True)])
        ),
        pieces=np.concatenate([c.pieces[o] for c, o in zip(chunks, own, strict=True)]),
        offsets=np.concatenate([c.offsets[o] for c, o in zip(chunks, own, strict=True)]),
        words=np.concatenate([c.words[o] for c, o in zip(chunks, own, strict=True)]),
    )


def _unit(rows: FloatRows) -> FloatRows:
    """Rows scaled to length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(folder: Path, name: str) -> bytes:
    """A model file's content; raises ModelError if it is missing or not the recorded one."""
    try:
        content = (folder / name).read_bytes()
        recorded = (folder / CHECKSUMS).read_text("utf-8").splitlines()
    except OSError as error:
        missing = Path(error.filename or name).name
        raise ModelError(
            f"model file {missing} cannot be read in {folder} ({error.strerror}); reinstall "
            "pageglass or run python -m retrieval.encoders.minilm_l6_v2.export"
        ) from error
    if f"{hashlib.sha256(content).hexdigest()}  {name}" not in recorded:
        raise ModelError(
            f"model file {folder / name} differs from its recorded checksum; reinstall pageglass "
            "or run python -m retrieval.encoders.minilm_l6_v2.export"
        )
    return content

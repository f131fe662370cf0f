"""BGE-M3: one forward pass, three ways to find a page (Chen et al., arXiv:2402.03216).

XLM-RoBERTa's hidden states give a dense vector, learned weights of the words (a linear layer of
one output) and a vector for each token (another linear layer).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pageglass.errors import ModelError
from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint
from retrieval.encoders import FloatArray, PageInput, SparseVector, Vectors
from retrieval.headings import heading
from retrieval.index import VectorSpec
from retrieval.torch_runtime import Batches, library, runtime

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 2048
"""Tokens read of a page, the words before it and both marks included.

The model takes 8192, in time and memory that grow with the square; a dense printed page has about
1,000 to 1,500.
"""

_SPARSE, _TOKENS = "sparse_linear.pt", "colbert_linear.pt"
_CONTEXT = "title . heading ."
_FAMILY = "xlm-roberta"


@dataclass(frozen=True, slots=True)
class _Head:
    """A linear layer over hidden states: ``weight`` (outputs, hidden), ``bias`` (outputs,)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Loaded:
    transformer: Any
    sparse: _Head
    tokens: _Head
    special: frozenset[int]
    padding: int
    device: str


@dataclass(frozen=True, slots=True)
class _Tokenized:
    """Token ids of a text, marks included; ``context`` are the rows that stand for the words put
    before it."""

    ids: list[int]
    context: list[int]


class BgeM3Encoder:
    """Fills and asks the named vectors ``dense``, ``sparse`` and ``tokens``.

    A page is read with the title of its document and its own heading before it: most pages of a
    long document do not say what they are about. The checkpoint is a folder as on the hub
    (``BAAI/bge-m3``): weights, tokenizer, sparse_linear.pt and colbert_linear.pt. It loads at the
    first text. Safe to share between threads.
    """

    def __init__(self, checkpoint: Checkpoint, settings: ModelSettings) -> None:
        """ModelError where the checkpoint is no BGE-M3 or its config is damaged."""
        self._checkpoint = checkpoint
        self._settings = settings
        self._batches = Batches(settings.batch_pages)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        for file in (_SPARSE, _TOKENS):
            if not checkpoint.has(file):
                raise ModelError(
                    f"{checkpoint.name} has no {file}: set models.text to BAAI/bge-m3, complete,"
                    " or to another model with its two heads"
                )
        config = checkpoint.config()
        if config.get("model_type") != _FAMILY:
            raise ModelError(
                f"{checkpoint.name} is no BGE-M3 (its config.json says"
                f" {config.get('model_type')!r}, not {_FAMILY!r}): choose another models.text"
            )
        self._hidden = _number(config, "hidden_size", checkpoint.name)
        # XLM-RoBERTa counts positions from the padding token's id + 1.
        positions = _number(config, "max_position_embeddings", checkpoint.name)
        padding = _number({"pad_token_id": 1} | config, "pad_token_id", checkpoint.name)
        self._max_tokens = min(MAX_TOKENS, positions - padding - 1)

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """``dense`` and ``tokens`` of length 1, ``sparse`` by token id; reads only the heads."""
        return {
            "dense": VectorSpec("dense", self._hidden),
            "sparse": VectorSpec("sparse"),
            "tokens": VectorSpec("multi", self._token_size, "float16"),
        }

    @cached_property
    def _token_size(self) -> int:
        return len(self._head(_TOKENS).bias)

    @property
    def model(self) -> dict[str, Any]:
        """The checkpoint, and what is read of a page."""
        return {
            **self._checkpoint.manifest(),
            "heads": ["dense", "sparse", "tokens"],
            "max_tokens": self._max_tokens,
            "context": _CONTEXT,
        }

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``dense`` (hidden,), ``sparse`` and ``tokens`` (tokens, size) a page, nothing for one
        without text.

        Title and heading count in ``dense`` and ``sparse``, which say what document it is. In
        ``tokens`` they only colour the page's own words: rows of their own would be much the same
        on every page of a document, and take 2 KB each.
        """
        texts = [of.page.text for of in pages]
        contexts = [f"{of.title} . {heading(of.page)} .\n" for of in pages]
        return self._encode(texts, contexts)

    def encode_question(self, text: str) -> Vectors:
        """``dense`` (hidden,), ``sparse`` and ``tokens`` (tokens, size)."""
        return self._encode([text], [""])[0]

    def _encode(self, texts: Sequence[str], contexts: Sequence[str]) -> list[Vectors]:
        vectors: list[Vectors] = [{} for _ in texts]
        present = [i for i, text in enumerate(texts) if text.strip()]
        if not present:
            return vectors
        loaded = self._load()
        tokenized = self._tokenize(
            loaded, [texts[i] for i in present], [contexts[i] for i in present]
        )
        # Longest first: batches need little padding, and memory fails at once or never.
        order = sorted(range(len(present)), key=lambda i: -len(tokenized[i].ids))
        encoded = self._batches.run(
            [tokenized[i] for i in order], lambda batch: _forward(loaded, batch)
        )
        for i, of_page in zip(order, encoded, strict=True):
            vectors[present[i]] = of_page
        return vectors

    def _tokenize(
        self, loaded: _Loaded, texts: Sequence[str], contexts: Sequence[str]
    ) -> list[_Tokenized]:
        with self._lock:  # fast tokenizers keep truncation as state
            read = loaded.transformer.tokenizer(
                [context + text for context, text in zip(contexts, texts, strict=True)],
                truncation=True,
                max_length=self._max_tokens,
                return_offsets_mapping=True,
            )
        return [
            _Tokenized(ids, [i for i, (_, end) in enumerate(offsets) if 0 < end <= len(context)])
            for ids, offsets, context in zip(
                read["input_ids"], read["offset_mapping"], contexts, strict=True
            )
        ]

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> _Loaded:
        modules = library("sentence_transformers.base.modules")
        where = runtime(self._settings)
        local = {"local_files_only": True}
        try:
            transformer = modules.Transformer(
                str(self._checkpoint.folder),
                model_kwargs={**local, "dtype": where.torch_dtype},
                processor_kwargs=dict(local),
                config_kwargs=dict(local),
            )
        except Exception as error:  # of transformers, torch, safetensors, tokenizers
            raise ModelError(
                f"cannot load {self._checkpoint.name}: {' '.join(str(error).split())[:300]}:"
                " fetch it again"
            ) from error
        self._check_weights(transformer.model)
        tokenizer = transformer.tokenizer
        if tokenizer is None or not tokenizer.is_fast:
            raise ModelError(f"{self._checkpoint.name} has no tokenizer.json: fetch it again")
        return _Loaded(
            transformer.to(where.device).eval(),
            self._head(_SPARSE, where.device),
            self._head(_TOKENS, where.device),
            frozenset(tokenizer.all_special_ids),
            tokenizer.pad_token_id,
            where.device,
        )

    def _check_weights(self, model: Any) -> None:
        # transformers only warns of weights that are missing, and makes them up.
        found = {name.removeprefix("roberta.") for name in self._tensor_names()}
        missing = [
            name
            for name, _ in model.named_parameters()
            if name not in found and not name.startswith("pooler.")  # which nothing here uses
        ]
        if missing:
            raise ModelError(
                f"the weights of {self._checkpoint.name} lack {missing[0]}: fetch it again"
            )

    def _tensor_names(self) -> set[str]:
        names = set(self._checkpoint.tensor_shapes())
        if not names:
            torch = library("torch")
            for path in self._checkpoint.folder.glob("pytorch_model*.bin"):
                names |= set(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        return names

    def _head(self, file: str, device: str = "cpu") -> _Head:
        torch = library("torch")
        try:
            state = torch.load(
                self._checkpoint.folder / file, map_location=device, weights_only=True
            )
            head = _Head(state["weight"].float(), state["bias"].float())
        except Exception as error:  # of torch, pickle, zipfile
            raise ModelError(
                f"{file} of the checkpoint {self._checkpoint.name} is damaged: fetch it again"
            ) from error
        if head.weight.shape != (len(head.bias), self._hidden):
            raise ModelError(
                f"{file} of the checkpoint {self._checkpoint.name} is for another model: its shape"
                f" is {tuple(head.weight.shape)}, the hidden size {self._hidden}"
            )
        return head


def _forward(loaded: _Loaded, batch: Sequence[_Tokenized]) -> list[Vectors]:
    torch = library("torch")
    longest = max(len(of.ids) for of in batch)
    ids = torch.full((len(batch), longest), loaded.padding)
    mask = torch.zeros_like(ids)
    for row, of in enumerate(batch):
        ids[row, : len(of.ids)] = torch.tensor(of.ids)
        mask[row, : len(of.ids)] = 1
    with torch.inference_mode():
        features = {"input_ids": ids.to(loaded.device), "attention_mask": mask.to(loaded.device)}
        hidden = loaded.transformer(features)["token_embeddings"].float()
        linear, normalize = torch.nn.functional.linear, torch.nn.functional.normalize
        dense = normalize(hidden[:, 0], dim=-1)
        weights = linear(hidden, loaded.sparse.weight, loaded.sparse.bias).relu()[..., 0]
        tokens = normalize(linear(hidden, loaded.tokens.weight, loaded.tokens.bias), dim=-1)
    arrays = [tensor.cpu().numpy() for tensor in (dense, weights, tokens)]
    return [
        _vectors(of, loaded.special, *(array[row] for array in arrays))
        for row, of in enumerate(batch)
    ]


def _vectors(
    of: _Tokenized,
    special: frozenset[int],
    dense: FloatArray,
    weights: FloatArray,
    tokens: FloatArray,
) -> Vectors:
    lexical: dict[int, float] = {}
    for token, weight in zip(of.ids, weights.tolist(), strict=False):  # weights go on over padding
        if weight > 0 and token not in special:
            lexical[token] = max(weight, lexical.get(token, 0.0))
    ranked = sorted(lexical.items())
    sparse = SparseVector(tuple(token for token, _ in ranked), tuple(value for _, value in ranked))
    # As in training, the first mark has no row (it is the dense vector), the last one has.
    rows = np.setdiff1d(np.arange(1, len(of.ids)), of.context)
    return {"dense": dense, "tokens": tokens[rows]} | ({"sparse": sparse} if lexical else {})


def _number(config: dict[str, Any], key: str, name: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"config.json of the checkpoint {name} is damaged: no {key}")
    return value

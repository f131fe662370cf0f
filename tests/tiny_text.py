"""Tiny random checkpoints of CLIP, SigLIP and BGE-M3, laid out as on the hub."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

from retrieval.torch_runtime import library

TEXT = (
    "the table shows revenue by region and quarter in millions of euro; pumps, valves and spare"
    " parts are listed with their numbers, weights and prices on page 12 of the annual report 2023"
)


def clip(folder: Path, *, weights: str = "open_clip_model.safetensors") -> Path:
    """A ViT over 32 pixels with CLIP's own tokenizer."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    return _open_clip(folder, config, preprocess, weights)


def siglip(folder: Path) -> Path:
    """A timm trunk of 160 pixels, squashed images, and a tokenizer of its own."""
    config = {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 400,
            "hf_tokenizer_name": "somebody/on-the-hub",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    _open_clip(folder, config, preprocess, "open_clip_model.safetensors")
    _tokenizer().save_pretrained(folder)
    return folder


def bge_m3(
    folder: Path, *, positions: int = 130, safetensors: bool = True, colbert: int = 16
) -> Path:
    """XLM-RoBERTa with two heads; it reads ``positions`` - 2 tokens."""
    torch, transformers = library("torch"), library("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=positions,
        type_vocab_size=1,
        # Random weights of the usual size say nearly the same of every text.
        initializer_range=0.3,
    )
    model = transformers.XLMRobertaModel(config)
    if safetensors:
        model.save_pretrained(folder)
    else:
        config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    _tokenizer().save_pretrained(folder)
    for name, outputs in (("sparse_linear.pt", 1), ("colbert_linear.pt", colbert)):
        state = {"weight": torch.randn(outputs, 32), "bias": torch.randn(outputs)}
        torch.save(state, folder / name)
    return folder


def _open_clip(
    folder: Path, config: dict[str, Any], preprocess: dict[str, Any], weights: str
) -> Path:
    torch, open_clip = library("torch"), library("open_clip")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if weights.endswith(".safetensors"):
        library("safetensors.torch").save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    return folder


def _tokenizer() -> Any:
    """SentencePiece's kind (Unigram, words begin with ▁), trained on nothing: every letter, and
    pieces of TEXT."""
    transformers = library("transformers")
    letters = [chr(code) for code in range(33, 127)] + ["▁", "é", "ä"]
    words = {"▁" + word for word in TEXT.split()} | {word[:3] for word in TEXT.split()}
    pieces = sorted(words - set(letters))
    scores = random.Random(0)
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -2.0 - scores.random()) for piece in pieces]
    vocabulary += [(letter, -8.0) for letter in letters]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary)


class Connections:
    """Every host that anything in this process tries to reach while it is open, swallowed errors
    included."""

    _open: ClassVar[Connections | None] = None
    _hooked: ClassVar[bool] = False

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __enter__(self) -> Self:
        if not Connections._hooked:  # an audit hook stays for good
            sys.addaudithook(Connections._hear)
            Connections._hooked = True
        Connections._open = self
        return self

    def __exit__(self, *_: object) -> None:
        Connections._open = None

    @staticmethod
    def _hear(event: str, arguments: tuple[Any, ...]) -> None:
        if Connections._open and event in ("socket.connect", "socket.getaddrinfo"):
            Connections._open.hosts.append(repr(arguments))

"""Tiny page-image checkpoints with random weights, one for each family, made on the spot.

Each is what the family's own classes save: configuration, weights, processor. Their tokenizer is
bytes and the special tokens that the family's processor needs. Random weights can show shapes,
geometry, padding and loading, never relevance.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint, find
from retrieval.encoders import PageInput, Vectors
from retrieval.torch_runtime import library
from tests.tiny import page

FAMILIES = (
    "ColPali",
    "ColQwen2",
    "ColQwen2_5",
    "ColQwen3",
    "ColQwen3_5",
    "ColIdefics3",
    "ColModernVBert",
)
CPU = ModelSettings(device="cpu", dtype="float32", batch_pages=4)

PORTRAIT, LANDSCAPE = (168, 280), (280, 112)
"""Width and height in pixels; no family's grid of these is square but ColPali's."""

_QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_IDEFICS_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|begin_of_text|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def visual_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny checkpoint of ``family`` (a model class of colpali-engine) in ``folder``."""
    engine, torch = library("colpali_engine.models"), library("torch")
    torch.manual_seed(seed)
    processor = _processor(family)
    model = getattr(engine, family)(_config(family, processor.tokenizer))
    for name, weights in model.named_parameters():
        # What starts at zero or one would hide what does not load.
        if weights.ndim == 1:
            torch.nn.init.normal_(weights, mean=0.0 if "bias" in name else 1.0, std=0.1)
        else:
            torch.nn.init.normal_(weights, std=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def without_attention(folder: Path) -> Path:
    """Take what attention adds out of a checkpoint: every row then sees its own patch only."""
    safetensors = library("safetensors.torch")
    path = folder / "model.safetensors"
    weights = safetensors.load_file(path)
    ends = (
        ".attn.proj.weight",
        ".attn.proj.bias",
        "attn.o_proj.weight",
        "attn.out_proj.weight",
        "attn.out_proj.bias",
        ".attn.Wo.weight",
    )
    for name in weights:
        if name.endswith(ends):
            weights[name] = weights[name] * 0
    safetensors.save_file(weights, path, metadata={"format": "pt"})
    return folder


def adapter_checkpoint(
    base: Path, folder: Path, family: str, *, whole: Sequence[str] = (), named: str | None = None
) -> Path:
    """Save a LoRA adapter on ``base``, projection included; ``whole`` are modules it replaces."""
    engine, peft, torch = library("colpali_engine.models"), library("peft"), library("torch")
    torch.manual_seed(5)
    model = getattr(engine, family).from_pretrained(str(base))
    projection = "linear" if family == "ColIdefics3" else "custom_text_proj"
    # As published adapters name their targets: the language model and the projection.
    targets = r".*(language_model|text_model).*(q_proj|v_proj|down_proj).*$"
    if projection not in whole:
        targets = rf"({targets}|.*({projection}).*$)"
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, modules_to_save=list(whole) or None
        ),
    )
    for name, weights in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weights, std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = named or str(base)
    adapted.save_pretrained(str(folder))
    return folder


def sentence_transformers_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save the weights of ``visual_checkpoint`` in ``folder`` as sentence-transformers would: the
    backbone, the projection as a module, and the prompts as a chat template."""
    engine, torch = library("colpali_engine.models"), library("torch")
    transformers = library("transformers")
    modules = library("sentence_transformers.base.modules")
    multi = library("sentence_transformers.multi_vector_encoder")
    own = visual_checkpoint(family, folder / "own", seed=seed)
    model = getattr(engine, family).from_pretrained(str(own))
    processor = _processor(family)
    if family.startswith("ColQwen"):
        backbone = getattr(transformers, type(model).__mro__[1].__name__)(model.config)
        backbone.load_state_dict(model.state_dict(), strict=False)
    else:
        backbone = model.model.model if family == "ColPali" else model.model
    kind = next(k for k in type(processor).__mro__ if k.__module__.startswith("transformers."))
    parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    if hasattr(processor, "video_processor"):
        parts["video_processor"] = processor.video_processor
    if hasattr(processor, "image_seq_len"):
        parts["image_seq_len"] = processor.image_seq_len
    # As colpali-engine words its prompts.
    ends = processor.query_augmentation_token * 10
    begins = "<bos>" if family == "ColPali" else ""
    template = (
        "{%- for message in messages %}{%- for part in message['content'] %}"
        "{%- if part['type'] == 'image' %}{{ " + repr(processor.visual_prompt_prefix) + " }}"
        "{%- else %}{{ " + repr(begins) + " + part['text'] + " + repr(ends) + " }}{%- endif %}"
        "{%- endfor %}{%- endfor %}"
    )
    saved = folder / "backbone"
    backbone.save_pretrained(saved)
    kind(**parts, chat_template=template).save_pretrained(saved)
    projection = getattr(model, "linear", None) or model.custom_text_proj
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    encoder = multi.MultiVectorEncoder(
        modules=[
            modules.Transformer(
                str(saved),
                modality_config={
                    "text": forward,
                    "image": forward,
                    "message": forward | {"format": "structured"},
                },
                module_output_name="token_embeddings",
            ),
            modules.Dense(
                projection.in_features,
                projection.out_features,
                activation_function=torch.nn.Identity(),
                init_weight=projection.weight,
                init_bias=projection.bias,
                module_input_name="token_embeddings",
            ),
            multi.modules.MultiVectorMask(),
            modules.Normalize(module_input_name="token_embeddings"),
        ],
        device="cpu",
    )
    encoder.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def native_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a retriever of transformers' own, ColPali, ColQwen2 or ColModernVBert, in ``folder``."""
    transformers, torch = library("transformers"), library("torch")
    torch.manual_seed(seed)
    parts = _processor(family)
    config = _config(family, parts.tokenizer)
    options: dict[str, Any] = {"image_processor": parts.image_processor}
    if family == "ColModernVBert":
        options["image_seq_len"] = parts.image_seq_len
    processor = getattr(transformers, f"{family}Processor")(tokenizer=parts.tokenizer, **options)
    if family == "ColPali":
        # This processor adds PaliGemma's own tokens.
        config.text_config.vocab_size = len(processor.tokenizer)
    model = getattr(transformers, f"{family}ForRetrieval")(
        getattr(transformers, f"{family}Config")(vlm_config=config, embedding_dim=24)
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, as the settings would find it."""
    return find(str(folder))


def picture(
    size: tuple[int, int] = PORTRAIT,
    marks: Sequence[tuple[int, int, int, int]] = (),
    *,
    background: tuple[int, int, int] = (250, 250, 245),
) -> Image.Image:
    """A blank page with dark boxes (left, top, right, bottom) on it, in pixels."""
    image = Image.new("RGB", size, background)
    for number, box in enumerate(marks):
        image.paste((20 + 60 * number, 10, 90), box)
    return image


def rows_of(vectors: Vectors, name: str = "patches") -> npt.NDArray[np.float32]:
    """A named multi-vector, as an array."""
    found = vectors[name]
    assert isinstance(found, np.ndarray)
    return found.astype(np.float32, copy=False)


def page_input(image: Image.Image | None, text: str = "", *, index: int = 0) -> PageInput:
    """A page to encode: its image as PNG, so that no pixel changes; None has no image."""
    data = BytesIO()
    if image is not None:
        image.save(data, "PNG")
    return PageInput(page(text, index=index), "A title", data.getvalue())


def byte_tokenizer(special: Sequence[str], **named: str) -> Any:
    """A tokenizer of bytes and special tokens."""
    tokenizers, transformers = library("tokenizers"), library("transformers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(special), **named
    )


def _processor(family: str) -> Any:
    engine, transformers = library("colpali_engine.models"), library("transformers")
    if family == "ColPali":
        images = transformers.SiglipImageProcessor(size={"height": 56, "width": 56})
        images.image_seq_length = 16
        tokenizer = byte_tokenizer(
            ("<pad>", "<eos>", "<bos>", "<image>"),
            pad_token="<pad>",
            eos_token="<eos>",
            bos_token="<bos>",
        )
        return engine.ColPaliProcessor(image_processor=images, tokenizer=tokenizer)
    if family in ("ColIdefics3", "ColModernVBert"):
        images = transformers.Idefics3ImageProcessor(
            size={"longest_edge": 168}, max_image_size={"longest_edge": 56}
        )
        tokenizer = byte_tokenizer(_IDEFICS_TOKENS, pad_token="<|endoftext|>")
        return getattr(engine, f"{family}Processor")(
            image_processor=images, tokenizer=tokenizer, image_seq_len=4
        )
    old = family in ("ColQwen2", "ColQwen2_5")
    images = transformers.Qwen2VLImageProcessor(
        patch_size=14 if old else 16,
        merge_size=2,
        size={"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 64},
    )
    tokenizer = byte_tokenizer(_QWEN_TOKENS, pad_token="<|endoftext|>")
    videos = transformers.Qwen2VLVideoProcessor() if old else transformers.Qwen3VLVideoProcessor()
    name = "ColQwen2_5_Processor" if family == "ColQwen2_5" else f"{family}Processor"
    return getattr(engine, name)(
        image_processor=images, tokenizer=tokenizer, video_processor=videos
    )


def _config(family: str, tokenizer: Any) -> Any:
    transformers = library("transformers")
    token = tokenizer.convert_tokens_to_ids
    text = _TEXT | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    siglip = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    if family == "ColPali":
        return transformers.PaliGemmaConfig(
            text_config=text | {"model_type": "gemma", "head_dim": 16},
            vision_config=siglip | {"model_type": "siglip_vision_model", "vision_use_head": False},
            image_token_index=token("<image>"),
            projection_dim=32,
        )
    if family == "ColIdefics3":
        return transformers.Idefics3Config(
            text_config=text | {"model_type": "llama"},
            vision_config=siglip,
            image_token_id=token("<image>"),
            scale_factor=2,
        )
    if family == "ColModernVBert":
        modernbert = {key: value for key, value in text.items() if key != "num_key_value_heads"}
        return transformers.ModernVBertConfig(
            text_config=modernbert
            | {"model_type": "modernbert", "num_hidden_layers": 3, "local_attention": 16},
            vision_config=siglip | {"model_type": "siglip_vision_model"},
            image_token_id=token("<image>"),
            pixel_shuffle_factor=2,
        )
    tokens = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    if family == "ColQwen2":
        return transformers.Qwen2VLConfig(
            text_config=text | {"rope_parameters": rope},
            vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
            **tokens,
        )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "spatial_merge_size": 2,
    }
    if family == "ColQwen2_5":
        # Windows of two by two merged patches: most pages are not whole windows.
        windows = {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        return transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": rope}, vision_config=vision | windows, **tokens
        )
    vision |= {"patch_size": 16, "num_position_embeddings": 64}
    if family == "ColQwen3":
        return transformers.Qwen3VLConfig(
            text_config=text
            | {"head_dim": 16, "rope_parameters": rope | {"mrope_interleaved": True}},
            vision_config=vision | {"deepstack_visual_indexes": [0]},
            **tokens,
        )
    if family == "ColQwen3_5":
        return transformers.Qwen3_5Config(
            text_config=text
            | {
                "head_dim": 16,
                "rope_parameters": rope | {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
                "layer_types": ["linear_attention", "full_attention"],
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
            },
            vision_config=vision,
            **tokens,
        )
    raise ValueError(f"no tiny {family}")

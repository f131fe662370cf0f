"""Tiny vision-language checkpoints with random weights, made on the spot by the real libraries.

They show shapes, batching, streaming and limits; of relevance they know nothing.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint, find
from retrieval.torch_runtime import library
from retrieval.vlms import PromptImage
from retrieval.vlms.images import prompt_image

CPU = ModelSettings(device="cpu", dtype="float32", batch_pages=4)

_YES_AND_NO = ("yes", "Yes", "YES", "no", "No", "NO")
_SMOL_MARKS = [
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]
_SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>",
               "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def smolvlm(folder: Path, *, seed: int = 0, context: int = 4096) -> Path:
    """A SmolVLM: hidden 32, 2 layers, tiles of 32 pixels, images scaled to 128."""
    transformers, torch = library("transformers"), library("torch")
    tokenizer = _tokenizer(_SMOL_MARKS, pad="<|im_start|>", eos="<end_of_utterance>")
    config = transformers.SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={"model_type": "llama", **_text(tokenizer, context)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    torch.manual_seed(seed)
    model = transformers.SmolVLMForConditionalGeneration(config)
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(
            size={"longest_edge": 128}, max_image_size={"longest_edge": 32}
        ),
        video_processor=transformers.SmolVLMVideoProcessor(),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_SMOL_TEMPLATE,
    )
    return _saved(folder, model, processor, tokenizer)


def qwen2_5_vl(folder: Path, *, seed: int = 0, context: int = 4096) -> Path:
    """A Qwen2.5-VL: hidden 32, 2 layers; as many image tokens as the image has 28 x 28 squares."""
    transformers, torch = library("transformers"), library("torch")
    tokenizer = _tokenizer(_QWEN_MARKS, pad="<|endoftext|>", eos="<|im_end|>")
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in _QWEN_MARKS}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        text_config={
            **_text(tokenizer, context),
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            min_pixels=56 * 56, max_pixels=28 * 28 * 64
        ),
        video_processor=transformers.Qwen2VLVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=_QWEN_TEMPLATE,
    )
    return _saved(folder, model, processor, tokenizer)


FAMILIES = {"smolvlm": smolvlm, "qwen2_5_vl": qwen2_5_vl}


def checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``, as the settings would find it."""
    return find(str(folder), fetch="never")


def picture(words: str = "", *, width: int = 120, height: int = 160, grey: int = 255) -> bytes:
    """A page as a PNG: ``words`` on paper of this ``grey``."""
    image = Image.new("RGB", (width, height), (grey, grey, grey))
    ImageDraw.Draw(image).multiline_text((4, 4), words.replace(" ", "\n"), fill="black")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def shown(words: str = "", *, width: int = 120, height: int = 160, grey: int = 255) -> PromptImage:
    """The same as a model is shown it."""
    return prompt_image(picture(words, width=width, height=height, grey=grey), longest_side=1024)


def _tokenizer(marks: list[str], *, pad: str, eos: str) -> Any:
    """Every byte is a token, and so are yes and no, with and without a space before them."""
    transformers, tokenizers = library("transformers"), library("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    # Merged left to right, so that the words' beginnings are tokens, too; then with their space.
    merges = list(
        dict.fromkeys((word[:i], word[i]) for word in _YES_AND_NO for i in range(1, len(word)))
    )
    merges += [("\u0120", word) for word in _YES_AND_NO]
    vocabulary = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    model = tokenizers.models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    bpe = tokenizers.Tokenizer(model)
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    # What SmolVLM's processor asks its tokenizer for.
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        eos_token=eos,
        additional_special_tokens=marks,
        **{name: mark for name, mark in named.items() if mark in marks},
    )


def _text(tokenizer: Any, context: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _saved(folder: Path, model: Any, processor: Any, tokenizer: Any) -> Path:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change what a JSON file says; None removes a key."""
    read: dict[str, Any] = json.loads(path.read_text())
    kept = {key: value for key, value in (read | changes).items() if value is not None}
    path.write_text(json.dumps(kept))

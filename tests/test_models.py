"""Fetching models, as a user meets it: the real command against a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from api.models import needed
from pageglass.settings import load_settings
from retrieval.checkpoints import wanted_files
from tests import tiny_text, tiny_visual, tiny_vlm
from tests.hub_server import HubServer, hub_server

ROOT = Path(__file__).parents[1]
VISUAL = "vidore/colSmol-256M"
BASE = "vidore/ColSmolVLM-Instruct-256M-base"
IMAGE = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
TEXT = "BAAI/bge-m3"
ANSWER = "HuggingFaceTB/SmolVLM-500M-Instruct"
# What repositories hold besides, and nothing here loads.
CLUTTER = (
    ".gitattributes",
    "README.md",
    "flax_model.msgpack",
    "imgs/figure.png",
    "model.gguf",
    "onnx/config.json",
    "onnx/model.onnx",
    "openvino/openvino_model.bin",
    "tf_model.h5",
    "training_args.bin",
)
HEADS = ["colbert_linear.pt", "sparse_linear.pt"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The profile cpu's repositories, tiny: by name, with what else repositories hold."""
    root = tmp_path_factory.mktemp("repositories")
    base = tiny_visual.visual_checkpoint("ColIdefics3", root / "base")
    lora = tiny_visual.adapter_checkpoint(base, root / "lora", "ColIdefics3")
    tiny_vlm.edit_json(lora / "adapter_config.json", base_model_name_or_path=BASE)
    for path in base.iterdir():
        if "token" in path.name or "process" in path.name:
            shutil.copy(path, lora)
    (base / "pytorch_model.bin").write_bytes(b"the same again")
    clip = tiny_text.clip(root / "clip")
    for file in ("open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"):
        (clip / file).write_bytes(b"the same again")
    for file in ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt"):
        (clip / file).write_text(json.dumps({file: "which nobody reads"}))
    repositories = {
        VISUAL: lora,
        BASE: base,
        IMAGE: clip,
        TEXT: tiny_text.bge_m3(root / "bge", safetensors=False),
        ANSWER: tiny_vlm.smolvlm(root / "smolvlm"),
    }
    for folder in repositories.values():
        for file in CLUTTER:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text("{}")
    return repositories


@pytest.fixture
def hub() -> Generator[HubServer]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def bge(hub: HubServer, folders: dict[str, Path]) -> str:
    """A model on the hub."""
    hub.add("owner/bge", folders[TEXT])
    return "owner/bge"


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """Run a command, or Python code, with the hub and a cache and a data folder of its own."""

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PAGEGLASS_", "HF_"))}
        own = {"PYTHONPATH": str(ROOT), "PAGEGLASS_DATA_DIR": str(tmp_path / "data")}
        return subprocess.run(
            [sys.executable, *command],
            env=kept | own | hub.environment(tmp_path / "hf") | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def pull(run: Run) -> Run:
    """Run `models pull`, for one text model where one is given."""

    def pull(text: str | None = None, *options: str, **environment: str) -> Any:
        if text is not None:
            environment["PAGEGLASS_MODELS__TEXT"] = text
        return run("-m", "api.cli", *options, "models", "pull", **environment)

    return pull


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    return line.removeprefix("pageglass: ")


# What is wanted of a repository


BGE_M3 = """.gitattributes 1_Pooling/config.json README.md colbert_linear.pt config.json
    config_sentence_transformers.json imgs/.DS_Store imgs/bm25.jpg imgs/mkqa.jpg imgs/others.webp
    long.jpg modules.json onnx/Constant_7_attr__value onnx/config.json onnx/model.onnx
    onnx/model.onnx_data onnx/sentencepiece.bpe.model onnx/special_tokens_map.json
    onnx/tokenizer.json onnx/tokenizer_config.json pytorch_model.bin sentence_bert_config.json
    sentencepiece.bpe.model sparse_linear.pt special_tokens_map.json tokenizer.json
    tokenizer_config.json""".split()
CLIP = """.gitattributes README.md config.json merges.txt model.safetensors open_clip_config.json
    open_clip_model.safetensors open_clip_pytorch_model.bin preprocessor_config.json
    pytorch_model.bin special_tokens_map.json tokenizer.json tokenizer_config.json
    vocab.json""".split()
COLQWEN = """.gitattributes README.md adapter_config.json adapter_model.safetensors
    added_tokens.json chat_template.json git_hash.txt merges.txt preprocessor_config.json
    special_tokens_map.json tokenizer.json tokenizer_config.json training_config.yml
    vocab.json""".split()
QWEN_VL = """.gitattributes LICENSE README.md chat_template.json config.json generation_config.json
    merges.txt model-00001-of-00005.safetensors model-00002-of-00005.safetensors
    model-00003-of-00005.safetensors model-00004-of-00005.safetensors
    model-00005-of-00005.safetensors model.safetensors.index.json preprocessor_config.json
    tokenizer.json tokenizer_config.json vocab.json""".split()
SMOLVLM = """.gitattributes README.md added_tokens.json chat_template.json config.json
    generation_config.json merges.txt model.safetensors onnx/decoder_model_merged.onnx
    onnx/decoder_model_merged_q4.onnx onnx/embed_tokens.onnx onnx/vision_encoder.onnx
    preprocessor_config.json processor_config.json special_tokens_map.json tokenizer.json
    tokenizer_config.json vocab.json""".split()


@pytest.mark.parametrize(
    ("listing", "left_out"),
    [
        (
            CLIP,
            ".gitattributes README.md config.json model.safetensors open_clip_pytorch_model.bin"
            " preprocessor_config.json pytorch_model.bin",
        ),
        (COLQWEN, ".gitattributes README.md training_config.yml"),
        (QWEN_VL, ".gitattributes LICENSE README.md"),
    ],
)
def test_what_no_model_is_loaded_from_is_left_out(listing: list[str], left_out: str) -> None:
    assert wanted_files(listing) == [file for file in listing if file not in left_out.split()]


def test_weights_for_other_libraries_and_pictures_are_left_out() -> None:
    smolvlm = [file for file in SMOLVLM if not file.startswith(("onnx/", ".git", "README"))]
    assert wanted_files(SMOLVLM) == smolvlm
    # Its weights come as .bin only, and its heads are files of their own.
    others = ("onnx/", "imgs/", "long.jpg", ".git", "README")
    assert wanted_files(BGE_M3) == [file for file in BGE_M3 if not file.startswith(others)]
    assert {"pytorch_model.bin", *HEADS} < set(wanted_files(BGE_M3))


@pytest.mark.parametrize(
    ("listing", "wanted"),
    [
        ("pytorch_model.bin model.safetensors", "model.safetensors"),
        (
            "model-00001-of-00001.safetensors model.safetensors.index.json"
            " pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin"
            " pytorch_model.bin.index.json",
            "model-00001-of-00001.safetensors model.safetensors.index.json",
        ),
        ("pytorch_model.bin.index.json pytorch_model-00001-of-00001.bin", None),
        ("adapter_model.bin adapter_model.safetensors", "adapter_model.safetensors"),
        # Of another model: each part of a sentence-transformers model has its own.
        ("model.safetensors 2_Dense/pytorch_model.bin 2_Dense/config.json", None),
        ("model.safetensors adapter_model.bin", None),
        # Left by training, by other formats, or a second time.
        ("model.safetensors optimizer.pt scheduler.pt training_args.bin", "model.safetensors"),
        ("model.safetensors checkpoint-500/model.safetensors", "model.safetensors"),
        ("model.safetensors consolidated.safetensors model.fp16.safetensors", "model.safetensors"),
        ("model.safetensors original/tokenizer.model", "model.safetensors"),
        ("coreml/float32.mlpackage/Data/weights/weight.bin coreml/Manifest.json", ""),
        # open_clip's, where the tokenizer is its own, and where only .bin is there.
        (
            "open_clip_config.json open_clip_pytorch_model.bin tokenizer.json spiece.model",
            None,
        ),
        ("open_clip_config.json pytorch_model.bin", None),
        ("additional_chat_templates/tool.jinja chat_template.jinja model.safetensors", None),
        ("tf_model.h5 flax_model.msgpack rust_model.ot model.q4.gguf", ""),
        ("", ""),
    ],
)
def test_each_weight_is_wanted_once(listing: str, wanted: str | None) -> None:
    assert wanted_files(listing.split()) == (listing if wanted is None else wanted).split()


# Which models are wanted


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        ({}, ""),
        ({"profile": "cpu"}, "visual image text answer"),
        ({"profile": "gpu"}, "visual image text"),
        ({"models": {"text": "owner/bge"}}, "text"),
        ({"profile": "cpu", "answer": {"url": "http://host/v1"}}, "visual image text"),
        (
            {"profile": "cpu", "models": {"rerank": "owner/vlm"}, "rerank": {"pages": 5}},
            "visual image text answer rerank",
        ),
        (
            {
                "profile": "cpu",
                "models": {"rerank": "owner/vlm"},
                "rerank": {"pages": 5, "url": "http://host/v1"},
            },
            "visual image text answer",
        ),
        (
            {"profile": "cpu", "models": {"rerank": "owner/vlm"}, "rerank": {"pages": 0}},
            "visual image text answer",
        ),
        # A folder is run here, whatever the server has.
        ({"profile": "gpu", "models": {"answer": "."}}, "visual image text answer"),
    ],
)
def test_only_models_that_run_here_are_needed(settings: Mapping[str, Any], uses: str) -> None:
    assert list(needed(load_settings(settings))) == uses.split()


# Pulling


def test_a_profile_is_fetched_once_and_loads_without_a_network(
    hub: HubServer, folders: dict[str, Path], pull: Run, run: Run, tmp_path: Path
) -> None:
    commits = {name: hub.add(name, folder) for name, folder in folders.items()}
    done = pull(None, "--profile", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["visual", "image", "text", "answer"]
    assert lines[1][1] == f"{IMAGE}@{commits[IMAGE][:12]},"
    assert lines[1][2:] == ["6.6", "MB"]

    fetched = {name: hub.fetched(name) for name in folders}
    assert "model.safetensors" in fetched[BASE]
    assert {"adapter_config.json", "adapter_model.safetensors"} < set(fetched[VISUAL])
    assert fetched[IMAGE] == [
        "merges.txt",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "vocab.json",
    ]
    assert {"pytorch_model.bin", *HEADS} < set(fetched[TEXT])
    for name, files in fetched.items():
        others = {*CLUTTER} if name == TEXT else {*CLUTTER, "pytorch_model.bin"}
        assert not others & set(files)

    requests = len(hub.requests)
    again = pull(None, "--profile", "cpu")
    assert again.stdout == done.stdout
    assert len(hub.requests) == requests

    # The hub is gone, and each model does what it is for.
    code = """
import sys
from pageglass.settings import load_settings
from retrieval.encoders.minilm import MiniLM
from retrieval.profiles import Checkpoints, load_profile
from retrieval.vlms import Message
from retrieval.vlms.local import LocalVlm
settings = load_settings({"profile": "cpu", "models": {"offline": True}})
checkpoints = Checkpoints(lock=settings.data_dir / "models.json", fetch="never")
profile = load_profile(settings, MiniLM(), checkpoints)
for space in profile.spaces:
    print(space.spec.name, *sorted(space.encoders[0].encode_question("How many pumps?")))
vlm = LocalVlm(checkpoints.find(sys.argv[1]), settings.models)
print(vlm.reply([Message("user", ("How many pumps?",))], tokens=1, seconds=60).model)
"""
    loaded = run("-c", code, ANSWER, HF_ENDPOINT="http://127.0.0.1:9")
    assert loaded.returncode == 0, loaded.stderr
    short = {name: commit[:8] for name, commit in commits.items()}
    assert loaded.stdout.splitlines() == [
        f"visual--colsmol-256m-{short[VISUAL]} patches pooled",
        f"image--clip-vit-b-32-laion2b-s34b-b79k-{short[IMAGE]} clip",
        f"text--bge-m3-{short[TEXT]} dense sparse tokens",
        f"SmolVLM-500M-Instruct@{commits[ANSWER][:12]}",
    ]
    assert json.loads((tmp_path / "data" / "models.json").read_text()) == commits


def test_a_revision_is_named_behind_an_at_sign_and_kept_where_none_is(
    hub: HubServer, bge: str, folders: dict[str, Path], pull: Run, tmp_path: Path
) -> None:
    assert pull(bge).returncode == 0
    [old] = json.loads((tmp_path / "data" / "models.json").read_text()).values()
    shutil.copytree(folders[TEXT], tmp_path / "newer")
    (tmp_path / "newer" / "config.json").write_text("{}")
    new = hub.add(bge, tmp_path / "newer")
    hub.add(bge, tmp_path / "newer", ref="refs/pr/3")
    assert f"@{old[:12]}," in pull(bge).stdout
    assert f"@{new[:12]}," in pull(f"{bge}@refs/pr/3").stdout
    assert f"@{old[:12]}," in pull(f"{bge}@{old}").stdout


def test_a_program_reads_what_was_pulled(
    bge: str, run: Run, folders: dict[str, Path], tmp_path: Path
) -> None:
    done = run("-m", "api.cli", "models", "pull", "--json", PAGEGLASS_MODELS__TEXT=bge)
    [model] = json.loads(done.stdout)["models"]
    snapshot = next((tmp_path / "hf" / "hub" / "models--owner--bge" / "snapshots").iterdir())
    assert model == {
        "used_for": "text",
        "name": "bge",
        "revision": snapshot.name,
        "bytes": sum((folders[TEXT] / path.name).stat().st_size for path in snapshot.iterdir()),
    }
    none = run("-m", "api.cli", "models", "pull", "--json")
    assert json.loads(none.stdout) == {"models": []}
    assert "lite needs no models" in run("-m", "api.cli", "models", "pull").stdout


def test_a_download_cut_short_is_said_in_one_line_and_made_whole_by_the_next(
    hub: HubServer, bge: str, folders: dict[str, Path], pull: Run, run: Run, tmp_path: Path
) -> None:
    hub.cut("pytorch_model.bin", after=1000)
    said = one_error_line(pull(bge))
    assert "cannot fetch the model owner/bge from the hub: " in said
    assert "check the network and try again" in said
    # What is there of it is not taken for a model.
    offline = run("-c", "from retrieval.checkpoints import find; find('owner/bge', fetch='never')")
    assert "owner/bge is not on this machine" in offline.stderr

    hub.mend()
    before = len(hub.requests)
    assert pull(bge).returncode == 0
    asked = [r.path.rpartition("/")[2] for r in hub.requests[before:] if "/resolve/" in r.path]
    assert set(asked) == {"pytorch_model.bin"}
    snapshot = next((tmp_path / "hf" / "hub" / "models--owner--bge" / "snapshots").iterdir())
    for path in snapshot.iterdir():
        assert path.read_bytes() == (folders[TEXT] / path.name).read_bytes()


def test_a_download_goes_on_where_the_connection_broke(
    hub: HubServer, pull: Run, tmp_path: Path
) -> None:
    weights = tmp_path / "repository" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(range(256)) * 50_000)  # more than the client reads at a time
    hub.add("owner/large", weights.parent)
    hub.cut("model.safetensors", after=12_000_000, for_good=False)
    done = pull("owner/large")
    assert (done.returncode, done.stderr) == (0, "")
    begins = [r.begin for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]
    assert begins[0] == 0
    assert begins[1:] == [10 * 1024 * 1024]
    [fetched] = (tmp_path / "hf").rglob("snapshots/*/model.safetensors")
    assert fetched.read_bytes() == weights.read_bytes()


def test_what_the_hub_refuses_is_said_in_one_line(
    hub: HubServer, bge: str, folders: dict[str, Path], pull: Run, run: Run
) -> None:
    hub.add("owner/gated", folders[TEXT], token="hf_consented")
    refused = {
        "owner/none": "owner/none from the hub: there is no such model, or it is private",
        f"{bge}@v9": "owner/bge@v9 from the hub: it has no such branch, tag or commit",
        "owner/gated": "owner/gated from the hub: its makers ask for consent first",
    }
    for name, said in refused.items():
        assert said in one_error_line(pull(name))
    assert pull("owner/gated", HF_TOKEN="hf_consented").returncode == 0
    done = run("-m", "api.cli", "models", "pull", "--json", PAGEGLASS_MODELS__TEXT="owner/none")
    assert json.loads(done.stdout)["error"]["code"] == "model-unusable"


def test_a_repository_without_weights_to_load_is_refused_before_anything_is_fetched(
    hub: HubServer, pull: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    hub.add("owner/quantized", folder)
    assert "owner/quantized has no weights to load" in one_error_line(pull("owner/quantized"))
    assert hub.fetched("owner/quantized") == []


def test_a_hub_that_is_gone_is_said_in_one_line(hub: HubServer, bge: str, pull: Run) -> None:
    gone = pull(bge, HF_ENDPOINT="http://127.0.0.1:9")
    assert "check the network and try again, or name a folder" in one_error_line(gone)


# What is in the cache already


FIND = "import sys; from retrieval.checkpoints import find; print(find(sys.argv[1]).folder)"


@pytest.mark.parametrize("listing_kept", [True, False])
@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "*.safetensors"])
def test_a_snapshot_that_lacks_weights_is_made_whole_where_there_is_a_network(
    hub: HubServer, run: Run, lost: str, listing_kept: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(b"%d" % number)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    hub.add("owner/sharded", folder)
    snapshot = Path(run("-c", FIND, "owner/sharded").stdout.strip())
    requests = len(hub.requests)
    assert run("-c", FIND, "owner/sharded").stdout.strip() == str(snapshot)
    assert len(hub.requests) == requests

    for path in list(snapshot.glob(lost)):
        path.unlink()
    if not listing_kept:  # as fetched by an earlier version of the client
        shutil.rmtree(snapshot.parents[1] / "trees")
    assert run("-c", FIND, "owner/sharded").stdout.strip() == str(snapshot)
    assert {path.name for path in snapshot.iterdir()} == {*shards.values(), index.name}
    assert len(hub.requests) > requests

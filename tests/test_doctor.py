"""`pageglass doctor` and `pageglass cost`, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from api.doctor import _MODEL_PACKAGES, _PACKAGES, Check, check_all
from pageglass.settings import load_settings
from tests import tiny_text, tiny_visual, tiny_vlm
from tests.openai_server import Misbehaviour, OpenAIServer, openai_server
from tests.tiny import pdf

ROOT = Path(__file__).parents[1]
NOBODY = "http://127.0.0.1:9"
# What the extra `models` brings: distributions and packages, by how their folders begin.
EXTRA = re.compile(
    r"(accelerate|colpali_engine|num2words|open_clip|peft|sentence_transformers|torch|torchvision"
    r"|transformers|timm)(_torch)?(-.+\.dist-info)?"
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command with a data folder and an empty cache of its own."""

    def run(*command: str, python: tuple[str, ...] = (), **environment: str) -> Any:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PAGEGLASS_", "HF_"))}
        own = {
            "PYTHONPATH": str(ROOT),
            "PAGEGLASS_DATA_DIR": str(tmp_path / "data"),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": NOBODY,
        }
        return subprocess.run(
            [sys.executable, *python, "-m", "api.cli", *command],
            env=kept | own | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def without_extra(tmp_path: Path) -> str:
    """PYTHONPATH of an installation without the extra `models`; site-packages are left out."""
    folder = tmp_path / "site"
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not EXTRA.fullmatch(path.name):
            (folder / path.name).symlink_to(path)
    return os.pathsep.join([str(ROOT), str(folder)])


@pytest.fixture
def server() -> Generator[OpenAIServer]:
    with openai_server() as server:
        yield server


def checks(**settings: Any) -> dict[str, Check]:
    return {check.name: check for check in check_all(load_settings(settings))}


def look(name: str, **settings: Any) -> Check:
    """One check; those after it are not made."""
    return next(check for check in check_all(load_settings(settings)) if check.name == name)


def answering(tmp_path: Path, url: str, **models: Any) -> Check:
    """What is said of a server that answers."""
    return look("answering", data_dir=tmp_path / "data", models=models, answer={"url": url})


# Doctor


def test_all_is_well_with_the_profile_that_needs_nothing(run: Run) -> None:
    done = run("doctor")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    names = [line.removeprefix("ok       ").partition(":")[0] for line in lines]
    assert names == [
        *(
            "python",
            "packages",
            "models",
            "answering",
            "page cost",
            "vectors",
            "ocr",
            "confinement",
        ),
        *("data folder", "free disk", "owner", "index", "calibration"),
    ]
    assert done.returncode == 0
    assert "ok       answering: quotes the pages; no model is asked" in lines
    cost = re.search(r"page cost: ([\d.]+) s, (\d+) KB with its image \(text--minilm", done.stdout)
    assert cost
    assert 0 < float(cost[1]) < 30
    assert 100 < int(cost[2]) < 2000


def test_what_a_profile_lacks_is_said_with_what_helps(run: Run) -> None:
    done = run("--profile", "gpu", "doctor", PAGEGLASS_MODELS__OFFLINE="true")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert all(re.match(r"(ok     |PROBLEM|skipped)  \S|         -> \S", line) for line in lines)
    for used_for, name in (
        ("visual", "vidore/colqwen2.5-v0.2"),
        ("image", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("text", "BAAI/bge-m3"),
    ):
        at = next(i for i, line in enumerate(lines) if f"{used_for} checkpoint" in line)
        said = f"PROBLEM  {used_for} checkpoint: the model {name} is not on this machine"
        assert lines[at].startswith(said)
        assert lines[at + 1] == "         -> run: pageglass --profile gpu models pull"
    skipped = [line for line in lines if line.startswith("skipped")]
    assert skipped == [
        "skipped  models: not looked at, because of: visual checkpoint, image checkpoint,"
        " text checkpoint",
        "skipped  page cost: not looked at, because of: models",
        "skipped  index: not looked at, because of: models",
    ]
    assert "PROBLEM  answering: no answer from http://127.0.0.1:8000/v1/models" in done.stdout


def test_a_missing_extra_is_said_once_with_the_command_that_installs_it(
    run: Run, without_extra: str
) -> None:
    done = run(*("--profile", "gpu", "doctor", "--json"), python=("-S",), PYTHONPATH=without_extra)
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["ok"] is False
    found = {check["name"]: check for check in report["checks"]}
    missing = found["model packages"]
    assert missing["ok"] is False
    assert missing["found"] == f"missing: {', '.join(_MODEL_PACKAGES)}"
    assert missing["advice"] == "run: pip install -e '.[models]' -c constraints.txt"
    for name in ("device", "models"):
        assert found[name]["ok"] is None
        assert "because of: model packages" in found[name]["found"]
        assert found[name]["advice"] is None
    assert found["packages"]["ok"] is True
    assert str(report).count("is not installed") == 0


def test_without_the_extra_the_lite_profile_is_well(run: Run, without_extra: str) -> None:
    done = run("doctor", "--json", python=("-S",), PYTHONPATH=without_extra)
    report = json.loads(done.stdout)
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert (done.returncode, report["ok"]) == (0, True)


def test_a_profile_whose_models_are_there_is_loaded_and_measured(tmp_path: Path) -> None:
    models = {
        "visual": str(tiny_visual.visual_checkpoint("ColIdefics3", tmp_path / "visual")),
        "image": str(tiny_text.clip(tmp_path / "clip")),
        "text": str(tiny_text.bge_m3(tmp_path / "bge", positions=600)),
        "answer": str(tiny_vlm.smolvlm(tmp_path / "SmolVLM-500M-tiny")),
        "device": "cpu",
    }
    settings: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "profile": "cpu",
        "models": models,
        "ingest": {"ocr": False},
    }
    found = checks(**settings)
    assert [check for check in found.values() if not check.ok] == []
    assert re.fullmatch(
        r"profile cpu encodes \(visual--\S+, image--\S+, text--\S+\)", found["models"].found
    )
    assert re.fullmatch(r"SmolVLM-500M-tiny@[0-9a-f]{12} in this process", found["answering"].found)
    cost = found["page cost"].found
    assert re.search(r"visual--\S+ [\d.]+ s and [\d.,]+ KB, image--\S+ .+, text--\S+ ", cost)
    assert re.search(r"; [\d,]+ tokens to show it to /.+/SmolVLM-500M-tiny$", cost)
    assert not (tmp_path / "data").exists()

    # A model that is there but damaged is no use, and said once.
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    damaged = checks(**settings)
    assert {name: check.ok for name, check in damaged.items() if not check.ok} == {
        "models": False,
        "page cost": None,
        "index": None,
    }
    assert f"cannot load {tmp_path / 'clip'}" in damaged["models"].found


def test_a_server_that_answers_is_asked_for_its_models(
    server: OpenAIServer, tmp_path: Path
) -> None:
    assert answering(tmp_path, server.url, answer=server.model) == Check(
        "answering", True, f"{server.model} at {server.url}"
    )
    assert answering(tmp_path, f"{server.url}/").found == f"{server.model} at {server.url}/"
    lacks = answering(tmp_path, server.url, answer="owner/other")
    assert lacks.ok is False
    assert lacks.found == f"{server.url} has {server.model}, not owner/other"
    assert lacks.advice is not None
    assert lacks.advice.startswith("set models.answer to a model it serves")
    assert [request.path for request in server.requests] == ["/v1/models"] * 3


def test_a_server_that_is_gone_or_refuses_is_said_with_what_helps(tmp_path: Path) -> None:
    with openai_server(api_key="right") as server:
        refused = answering(tmp_path, server.url)
        assert refused.found == f"{server.url}/models refuses the key"
        assert (refused.advice or "").startswith("set answer.api_key")
        assert look("answering", answer={"url": server.url, "api_key": "right"}).ok
        elsewhere = answering(tmp_path, server.url.removesuffix("/v1") + "/v2")
        assert elsewhere.ok is False
    gone = answering(tmp_path, server.url)
    assert gone.ok is False
    assert gone.found.startswith(f"no answer from {server.url}/models: ")
    assert gone.advice == (
        "start the model's server, or correct answer.url; until then the pages are quoted"
    )
    for check in (gone, elsewhere, answering(tmp_path, "no url")):
        assert check.ok is False
        assert "\n" not in check.found


@pytest.mark.parametrize("fault", ["endless", "endless_error", "bomb", "trickling", "redirecting"])
def test_an_odd_server_is_no_server(
    server: OpenAIServer, tmp_path: Path, fault: Misbehaviour
) -> None:
    server.redirect_to = NOBODY
    server.misbehave(fault)
    odd = answering(tmp_path, server.url)
    assert odd.ok is False and odd.found.startswith(f"no answer from {server.url}/models: ")
    assert "\n" not in odd.found
    assert server.sent < 40 << 20


def test_a_reranking_server_is_looked_at_by_itself(server: OpenAIServer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "models": {"rerank": server.model, "answer": server.model},
        "answer": {"url": server.url},
    }
    assert "reranking" not in checks(**settings)
    assert look("reranking", **settings, rerank={"url": server.url}).ok
    gone = look("reranking", **settings, rerank={"url": NOBODY})
    assert gone.ok is False
    assert gone.advice == "start the model's server, or correct rerank.url"


def test_a_qdrant_server_that_is_gone_is_said_and_the_index_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "data" / "index").mkdir(parents=True)
    found = checks(data_dir=tmp_path / "data", index={"url": NOBODY, "retries": 0})
    assert found["vectors"].ok is False
    assert found["vectors"].found.startswith("no answer from the Qdrant server: ")
    assert found["index"] == Check("index", None, "not looked at, because of: vectors")


def test_what_is_indexed_is_searched(run: Run, tmp_path: Path) -> None:
    pdf(tmp_path / "log.pdf", ["The feed pump failed on 4 March.", "Rye bread rests."])
    assert run("ingest", "log.pdf").returncode == 0
    assert "ok       index: 1 documents, 2 pages readable" in run("doctor").stdout


def test_the_packages_looked_for_are_those_that_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [re.match(r"[\w-]+", one) for one in project["dependencies"]]
    assert [match[0] for match in named if match] == list(_PACKAGES)
    assert project["optional-dependencies"]["models"] == list(_MODEL_PACKAGES)


# Cost


def test_the_cost_of_pages_is_said_with_its_formula(run: Run) -> None:
    done = run("cost", "--pages", "5000", "--model", "gpt-4o", "--input-price", "2.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "5,000 pages of 1240 x 1754 pixels for gpt-4o: 5,525,000 tokens in, 1,105 a page's image",
        "at the prices given: 13.81",
        "85 + 170 a tile of 512 px, within 2048 px and the shorter side within 768 px",
        "https://platform.openai.com/docs/guides/images-vision",
    ]
    one = run("cost", "--pages", "1", "--model", "gpt-4o", "--output-tokens", "80").stdout
    assert one.startswith("1 page of ")
    assert "\nand 80 tokens out\n" in one
    assert "prices" not in one


def test_a_program_reads_the_cost(run: Run) -> None:
    done = run(
        *("cost", "--pages", "10", "--model", "gpt-4o", "--size", "1024X1024", "--json"),
        *("--text-tokens", "235", "--input-price", "2"),
    )
    read = json.loads(done.stdout)
    assert (read["input_tokens"], read["output_tokens"]) == (10_000, 0)
    assert read["page"]["image_tokens"] == 765
    assert read["cost"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "owner/unknown"), "it is not known what images cost 'owner/unknown'"),
        (("--model", "gpt-4o", "--size", "A4"), "--size must be WIDTHxHEIGHT in pixels"),
        (("--model", "gpt-4o", "--size", "0x100"), "--size must be WIDTHxHEIGHT in pixels"),
        (("--model", "gpt-4o", "--size", "100x" + "9" * 5000), "--size must be WIDTHxHEIGHT"),
        (("--model", "Qwen/Qwen2.5-VL-7B-Instruct", "--size", "10x9000"), "more than 200 to 1"),
    ],
)
def test_what_has_no_cost_is_refused_in_one_line(
    run: Run, options: tuple[str, ...], said: str
) -> None:
    done = run("cost", "--pages", "3", *options)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert said in line
    as_json = run("cost", "--pages", "3", *options, "--json")
    assert json.loads(as_json.stdout)["error"]["code"] == "usage"

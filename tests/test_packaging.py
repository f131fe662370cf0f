from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["pageglass", "retrieval", "ingest", "generate", "api", "evals"])
def test_each_package_is_the_one_of_this_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / name


def test_importing_everything_loads_no_model_library() -> None:
    code = (
        "import sys, api.cli, api.app, api.services, evals.page_recall\n"
        "print([m for m in ('torch', 'transformers', 'onnxruntime', 'tokenizers', 'rapidocr',"
        " 'pymupdf', 'qdrant_edge') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_pin_is_exact_and_names_no_host() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or line.count("==") == 1, line
        assert "://" not in line

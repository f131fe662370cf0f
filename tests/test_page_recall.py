from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from evals.cases import read_cases
from evals.page_recall import main
from tests.openai_server import openai_server
from tests.tiny import pdf

PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry."
TREE = "The city planted 312 lime trees along the canal in the autumn of 2022."


def case(id: str, question: str, pages: list[int], **more: object) -> str:
    fields = {"id": id, "question": question, "document": "log.pdf", "pages": pages, **more}
    return json.dumps(fields)


def test_cases_that_cannot_be_used_are_named_and_the_rest_stay(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    lines = [
        case("a", "Why?", [1]),
        case("a", "Again?", [1]),
        case("b", "Why?", [9]),
        case("c", "Why?", [1], document="other.pdf"),
        "{broken",
        case("d", "  ", [1]),
    ]
    path.write_text("\n".join(lines))
    cases = read_cases(path, {"log.pdf": 2})
    assert [usable.id for usable in cases.usable] == ["a"]
    assert [line.split(":")[0] for line in cases.excluded] == [f"line {n}" for n in range(2, 7)]
    assert "stands twice" in cases.excluded[0]
    assert "has no page 9" in cases.excluded[1]
    assert "no document 'other.pdf'" in cases.excluded[2]


def test_the_script_measures_every_retriever_and_declines(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    pdf(docs / "log.pdf", [PUMP, TREE])
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        "\n".join(
            [
                case("a", "Why did the feed pump fail?", [1], sources=["Table"]),
                case("b", "How many lime trees were planted along the canal?", [2]),
                case("c", "Who sponsored the regatta?", [], answerable=False),
                case("d", "What failed on 4 March?", [], origin="proposed"),
            ]
        )
    )
    app = Typer()
    app.command()(main)
    arguments = ["--cases", str(cases), "--docs", str(docs), "--answers", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["overall"]["cases"] == 2
    assert result["overall"]["hit@5"] == 1
    assert result["by_source"]["Table"]["cases"] == 1
    assert set(result["by_retriever"]) == {"sparse", "dense", "tokens"}
    assert result["answers"]["declined_unanswerable"] == {"cases": 1, "declined": 1}
    assert result["answers"]["declined_answerable"] == {"cases": 3, "declined": 0}
    blank, open_ = result["remarks"]
    assert blank == "line 4: no gold pages: it is left out of the rankings"
    assert "1 case was made by a program and nobody has looked at" in open_


def test_a_reranker_that_failed_and_answers_that_do_not_hold_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    pdf(docs / "log.pdf", [PUMP, TREE])
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        case("a", "Why did the feed pump fail?", [1])
        + "\n"
        + case("b", "Why did the feed pump of line two fail in Moravia?", [], answerable=False)
    )
    app = Typer()
    app.command()(main)
    with openai_server() as server:
        server.misbehave("no_logprobs")
        server.misbehave("invented_quote")
        for section in ("ANSWER", "RERANK"):
            monkeypatch.setenv(f"PAGEGLASS_{section}__URL", server.url)
        arguments = ["--cases", str(cases), "--docs", str(docs), "--answers", "--json"]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["reranked"] == result["overall"]
    ((note, count),) = result["rerank_failed"].items()
    assert "logprobs" in note
    assert count == 2
    assert result["answers"]["declined_unanswerable"] == {"cases": 1, "declined": 0}


def test_the_script_needs_nothing_but_the_base(tmp_path: Path) -> None:
    """The extra `evals` is not there."""
    docs = tmp_path / "docs"
    docs.mkdir()
    pdf(docs / "log.pdf", [PUMP])
    lines = [
        case("a", "Why did the feed pump fail?", [1]),
        case("b", "When did it fail?", []),
        case("[/b]", "When did it fail?", [9]),
    ]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    code = """
import runpy, sys
for name in ("matplotlib", "jinja2"):
    sys.modules[name] = None
runpy.run_module("evals.page_recall", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--cases", "cases.jsonl", "--docs", "docs", "--answers"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "declined_answerable: 0 of 2" in done.stdout
    assert "line 2: no gold pages" in done.stdout
    assert "excluded: line 3: log.pdf has no page 9" in done.stdout

"""evals.isolation: the two ways to read a page that it compares, and what it prints."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from ingest.pdf import PdfReader, RawPage, child_settings
from pageglass.settings import IngestSettings
from tests.tiny import pdf

SETTINGS = IngestSettings()
ROOT = Path(__file__).parents[1]


def test_a_child_and_its_own_code_in_this_process_give_the_same_page(tmp_path: Path) -> None:
    from ingest import _pdf_child

    path = pdf(tmp_path / "a.pdf", ["one page", "another page"])
    own = _pdf_child.Reader(child_settings(SETTINGS))
    assert own.open(os.open(path, os.O_RDONLY), "PDF")["pages"] == 2
    with PdfReader(SETTINGS) as reader:
        for index, page in enumerate(reader.pages(path, range(2))):
            header, jpeg = own.page(index)
            assert isinstance(page, RawPage)
            assert (page.render_hash, page.label) == (header["render_hash"], header["label"])
            assert [word.text for word in page.words] == [word[0] for word in header["words"]]
            assert hashlib.sha256(page.image).digest() == hashlib.sha256(jpeg).digest()


def test_the_command_prints_both_rates_and_what_lies_between(tmp_path: Path) -> None:
    for number in range(3):
        pdf(tmp_path / f"{number}.pdf", ["some words"] * (number + 1))
    command = [sys.executable, "-m", "evals.isolation", "--docs", str(tmp_path), "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["pages"], figures["rounds"]) == (6, 2)
    ratio = figures["in_process_pages_per_second"] / figures["child_pages_per_second"]
    assert abs(100 * (ratio - 1) - figures["overhead_percent"]) < 1

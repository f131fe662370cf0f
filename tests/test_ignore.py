"""What a watched folder passes over."""

from __future__ import annotations

import os
import time

import pytest

from ingest.ignore import Rules


@pytest.mark.parametrize(
    "path",
    [
        ".hidden.pdf",
        "~$report.docx",
        ".~lock.report.odt#",
        "report.pdf.part",
        "report.pdf.crdownload",
        "report.pdf~",
        "Scan.TMP",
        ".report.pdf.Xy12Zw",
        ".syncthing.report.pdf.tmp",
        "~syncthing~report.pdf.tmp",
        "Thumbs.db",
        "@eaDir",
        "deep/down/.stfolder",
        ".dropbox.cache",
        ".~lock.sync",
        ".sync_1a2b.db",
        "$RECYCLE.BIN",
        "a line\nbreak.pdf.part",
    ],
)
def test_what_programs_leave_behind_is_passed_over(path: str) -> None:
    assert Rules(()).ignores(path)


@pytest.mark.parametrize(
    "path",
    [
        "report.pdf",
        "report (Ann's conflicted copy 2024-01-02).pdf",
        "report.sync-conflict-20240102.pdf",
        "tmp.pdf",
        "a~b.pdf",
        "part.pdf",
        "~notes.pdf",
        "Volume.part.pdf",
    ],
)
def test_documents_with_odd_names_are_not(path: str) -> None:
    assert not Rules(()).ignores(path)


def test_the_nearest_ignore_file_that_says_anything_decides() -> None:
    rules = Rules(["*.png"])
    above, _ = rules.below("", b"drafts/\n*.tiff\n")
    below, wrong = above.below("art", b"!*.png\n/private.pdf\n")
    assert wrong == []
    assert below.ignores("photo.png")
    assert not below.ignores("art/photo.png")
    assert below.ignores("art/photo.tiff")
    assert below.ignores("art/private.pdf")
    assert not below.ignores("art/more/private.pdf")
    assert below.ignores("drafts", folder=True)
    assert not below.ignores("drafts.pdf")


def test_an_ignore_file_of_any_editor_is_read() -> None:
    rules, wrong = Rules(()).below("", b"\xef\xbb\xbfa.pdf\r\n# a*b*c*d*e\r\n\r\nb.pdf")
    assert wrong == []
    assert rules.ignores("a.pdf")
    assert rules.ignores("b.pdf")


def test_an_ignore_file_that_is_rubbish_ignores_what_it_can() -> None:
    rules, wrong = Rules(()).below("", b"\xff\xfe\x00\n!\n*.pdf\n" + b"#" * 100_000)
    assert rules.ignores("a.pdf")
    assert wrong == [
        "is not UTF-8",
        "counts up to 64 KB and 1,000 lines only",
        "line 2 is no pattern",
    ]


def test_a_line_cut_short_says_nothing() -> None:
    content = b"#" * (64 * 1024 - 2) + b"\n*.pdf\n"
    rules, wrong = Rules(()).below("", content)
    assert not rules.ignores("a.pdf")
    assert len(wrong) == 1


def test_a_pattern_in_the_encoding_of_its_files_ignores_them() -> None:
    rules, wrong = Rules(()).below("", b"caf\xe9.pdf\n")
    assert rules.ignores(os.fsdecode(b"caf\xe9.pdf"))
    assert wrong == ["is not UTF-8"]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 30 + "b", "a" * 255),
        ("**/a/" * 30 + "b", "a/" * 2000 + "c"),
        ("**/a/**/a/**/b", "a/" * 2000 + "c"),
        ("**/a/**/b", "a/" * 2000 + "c"),
        ("*a*a*b", "a" * 255),
    ],
)
def test_no_pattern_takes_long_to_match(pattern: str, path: str) -> None:
    rules, _ = Rules(()).below("", pattern.encode())
    began = time.process_time()
    assert not rules.ignores(path)
    assert time.process_time() - began < 2

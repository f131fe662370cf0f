"""What a watched folder passes over."""

from __future__ import annotations

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
    ],
)
def test_documents_with_odd_names_are_not(path: str) -> None:
    assert not Rules(()).ignores(path)


def test_the_nearest_ignore_file_that_says_anything_decides() -> None:
    rules = Rules(["*.png"])
    below = rules.below("", b"drafts/\n*.tiff\n").below("art", b"!*.png\n/private.pdf\n")
    assert below.ignores("photo.png")
    assert not below.ignores("art/photo.png")
    assert below.ignores("art/photo.tiff")
    assert below.ignores("art/private.pdf")
    assert not below.ignores("art/more/private.pdf")
    assert below.ignores("drafts", folder=True)
    assert not below.ignores("drafts.pdf")


def test_an_ignore_file_that_is_rubbish_ignores_what_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = Rules(()).below("", b"\xff\xfe\x00\n!\n*.pdf\n" + b"#" * 100_000)
    assert rules.ignores("a.pdf")
    assert "64 KB" in caplog.text

"""The command line, as real processes: what they print, where, and how they exit."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.owner import Owner, OwnerLock
from api.printing import page_file
from api.services import Services
from ingest.sources import FileState
from pageglass.settings import Settings
from pageglass.text import one_line, printable
from tests.openai_server import openai_server
from tests.qdrant_http import serve as qdrant_http
from tests.test_app import FERRY, TURBINE, encrypted_pdf, pdf_without_pages
from tests.tiny import pdf

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "ingest",
    "ask",
    "search",
    "extract",
    "status",
    "jobs",
    "retry",
    "cancel",
    "deletions",
    "check",
    "backup",
    "rm",
    "watch",
    "serve",
    "mcp",
    "models",
    "cost",
    "copy",
    "doctor",
    "eval",
)
CRANES = "Migrating cranes rest on the flooded meadows and leave before the first frost."
QUESTION = "When does the ferry leave the pier?"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(data_dir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PAGEGLASS_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PAGEGLASS_DATA_DIR": str(data_dir),
        "PAGEGLASS_INGEST__BATCH_PAGES": "2",
        "PAGEGLASS_WATCH__SETTLE_SECONDS": "0.2",
    }


def pageglass(
    data_dir: Path, *args: str | Path, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *map(str, args)],
        env=environment(data_dir) | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def running(
    data_dir: Path, *args: str | Path, **variables: str
) -> Generator[subprocess.Popen[str]]:
    """A command that goes on by itself; both its streams are one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", *map(str, args)],
        env=environment(data_dir) | variables,
        cwd=data_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"{pattern!r} never came: {seen}")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command on a data folder of its own."""
    return lambda *args: pageglass(tmp_path / "data", *args, cwd=tmp_path)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two documents."""
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "docs").mkdir()
    pdf(folder / "docs" / "ferry.pdf", FERRY, labels="r")
    pdf(folder / "docs" / "turbine.pdf", TURBINE)
    done = pageglass(folder / "data", "ingest", folder / "docs", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    return folder / "data"


@pytest.fixture
def ask(indexed: Path, tmp_path: Path) -> Run:
    """Run a command on the folder with the two documents."""
    return lambda *args: pageglass(indexed, *args, cwd=tmp_path)


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error, without its ``pageglass: ``."""
    [line] = done.stderr.splitlines()
    assert line.startswith("pageglass: ")
    assert "\x1b" not in line
    return line.removeprefix("pageglass: ")


# Help


def test_help_names_every_command_with_an_example(run: Run) -> None:
    help = run("--help").stdout
    assert [name for name in COMMANDS if f"\n  {name} " in help] == list(COMMANDS)
    assert "..." not in help.partition("Commands:")[2]
    for name in COMMANDS:
        assert f"\n  pageglass {name}" in run(name, "--help").stdout, name


def test_help_and_version_load_no_heavy_library() -> None:
    code = """
import sys
from api.cli import app
try:
    app([sys.argv[1]], prog_name="pageglass")
except SystemExit as end:
    assert not end.code
heavy = {"fastapi", "httpx", "numpy", "onnxruntime", "qdrant_edge", "PIL", "pydantic", "rich"}
print("heavy:", *sorted(heavy & sys.modules.keys()))
"""
    for flag in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, flag],
            env=environment(Path("unused")),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "heavy:", flag


# Ingest


def test_ingest_says_what_became_of_every_file(run: Run, tmp_path: Path) -> None:
    pdf(tmp_path / "good.pdf", FERRY)
    (tmp_path / "broken.pdf").write_bytes(b"this is no PDF")
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "nopages.pdf").write_bytes(pdf_without_pages())
    encrypted_pdf(tmp_path)
    names = ["broken.pdf", "empty.pdf", "locked.pdf", "nopages.pdf", "missing.pdf"]
    done = run("ingest", "good.pdf", *names)
    assert done.returncode == 1
    lines = {line.split()[1].rstrip(":"): line for line in done.stdout.splitlines()}
    assert lines.keys() == {"good.pdf", *names}
    assert lines["good.pdf"] == "indexed    good.pdf (2 pages)"
    for name in names:
        assert re.fullmatch(rf"failed     {name}: .+", lines[name])
    assert "password" in lines["locked.pdf"] or "encrypted" in lines["locked.pdf"]
    assert done.stderr.splitlines()[-1] == "1 indexed, 5 failed"

    again = run("ingest", "good.pdf", "--json")
    assert again.returncode == 0
    [report] = json.loads(again.stdout)["files"]
    assert (report["path"], report["outcome"], report["reason"]) == ("good.pdf", "unchanged", None)
    assert report["document"]["pages"] == 2


def test_ingest_in_json_reports_failures_in_the_same_form(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"this is no PDF")
    done = run("ingest", "broken.pdf", "missing.pdf", "--json")
    assert done.returncode == 1
    files = {file["path"]: file for file in json.loads(done.stdout)["files"]}
    assert {file["outcome"] for file in files.values()} == {"failed"}
    assert all(file["reason"] for file in files.values())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ingest", "missing.pdf"), "no such file"),
        (("ingest", ".", "--collection", "a/b"), "a/b"),
        (("--profile", "huge", "status"), "profile"),
        (("--config", "none.toml", "status"), "none.toml"),
        (("serve", "--host", "192.0.2.1"), "192.0.2.1"),
        (("serve", "--watch", "/dev/null"), "/dev/null"),
        (("jobs", "--state", "resting"), "resting"),
        (("retry",), "--all"),
        (("deletions", "--keep", "--remove"), "not both"),
        (("extract", "--schema", "none.json", "x.pdf"), "none.json"),
        (("extract", "--schema", "/dev/null", "x.pdf"), "/dev/null is no JSON"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run: Run, args: tuple[str, ...], words: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert words in one_error_line(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "args", [(), ("ask", "hi", "--top-k", "0"), ("fly",), ("search", "hi", "--jsn")]
)
def test_unknown_words_exit_2(run: Run, args: tuple[str, ...]) -> None:
    assert run(*args).returncode == 2


def test_settings_come_from_flags_then_environment_then_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pageglass.toml").write_text("[ingest]\ndpi = 72\n[serch]\ntop_k = 1\n")
    assert "serch" in one_error_line(run("status"))
    (tmp_path / "pageglass.toml").write_text('data_dir = "from-file"\n')
    # Only what adds something makes a folder; a look says which one it means.
    assert one_error_line(run("status")).startswith(f"{tmp_path / 'data'} is no data folder")
    flag = run("--data-dir", "from-flag", "status")
    assert one_error_line(flag).startswith("from-flag is no data folder")


# Asking


def test_extract_prints_values_and_where_they_stand(ask: Run, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(
        json.dumps(
            {
                "properties": {
                    "fare": {"type": "string", "description": "tickets cost"},
                    "captain": {"type": "string"},
                }
            }
        )
    )
    (tmp_path / "numbers.json").write_text("[1, 2]")
    lite = ask("extract", "--schema", "prices.json", "ferry.pdf")
    assert lite.returncode == 2
    assert "profile lite" in one_error_line(lite)
    for wrong in ("3-1", "0", "1,,2", "one"):
        done = ask("extract", "--schema", "prices.json", "ferry.pdf", "--pages", wrong)
        assert "--pages must be" in one_error_line(done)
    assert "must be an object" in one_error_line(ask("extract", "--schema", "numbers.json", "x"))
    with openai_server() as server:
        (tmp_path / "pageglass.toml").write_text(f'[answer]\nurl = "{server.url}"\n')
        done = ask("extract", "--schema", "prices.json", "ferry.pdf")
        assert done.returncode == 0, done.stderr
        assert re.search(
            r'^  /fare  "twelve euros.*"  page 2 \(label ii\): "Tickets', done.stdout, re.M
        )
        assert "captain" not in done.stdout
        done = ask("extract", "--schema", "prices.json", "ferry.pdf", "--pages", "1", "--json")
        [document] = json.loads(done.stdout)["documents"]
        assert document["pages"] == [1]
        assert document["data"] == {"fare": None, "captain": None}


def test_ask_cites_and_saves_the_cited_pages(ask: Run, tmp_path: Path) -> None:
    done = ask("ask", QUESTION, "--save-pages", "cited")
    assert done.returncode == 0, done.stderr
    assert "(extractive: quoted from the pages)" in done.stdout
    assert re.search(r'^\[1\] ferry\.pdf, page 1 \(label i\): "The ferry', done.stdout, re.M)
    images = sorted((tmp_path / "cited").iterdir())
    assert images[0].name == "01-ferry-page-1.png"
    with Image.open(images[0]) as image:
        colours = image.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert any(colour == (255, 236, 64) for _, colour in colours)


def test_ask_in_json_has_the_servers_form(ask: Run) -> None:
    done = ask("ask", QUESTION, "--json", "--top-k", "2", "--document", "ferry.pdf")
    answer = json.loads(done.stdout)
    assert answer["answer_status"] == "answered"
    assert len(answer["pages"]) == 2
    assert {
        "document_id",
        "document_name",
        "page",
        "page_label",
        "quote",
        "boxes",
        "verified",
        "image_url",
    } == answer["citations"][0].keys()


def test_a_question_the_pages_do_not_answer_shows_the_nearest(ask: Run) -> None:
    done = ask("ask", "Who composed the opera about the glacier in 1907?")
    assert done.returncode == 0
    assert done.stdout.startswith("The pages do not answer this.")
    assert re.search(r"^ 1\. \w+\.pdf, page \d", done.stdout, re.M)


def test_search_prints_pages_and_why(ask: Run) -> None:
    done = ask("search", "price of tickets", "--json")
    assert done.returncode == 0
    body = json.loads(done.stdout)
    assert body.keys() == {"pages", "timings_ms", "usage", "notes"}
    hit = body["pages"][0]
    assert (hit["document_name"], hit["page"], hit["page_label"]) == ("ferry.pdf", 2, "ii")
    assert {"document_id", "score", "why"} <= hit.keys()
    assert hit["why"]["retrievers"][0].keys() == {"retriever", "rank", "score"}
    lines = ask("search", "price of tickets", "-k", "1").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(" 1. ferry.pdf, page 2 (label ii)  (")


@pytest.mark.parametrize("command", ["ask", "search"])
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("",), "question-invalid"),
        (("x" * 100_000,), "question-invalid"),
        (("hi", "--collection", "a/b"), "collection-name-invalid"),
        (("hi", "--document", "nope"), "document-not-found"),
    ],
)
def test_bad_questions_are_refused(
    ask: Run, command: str, args: tuple[str, ...], code: str
) -> None:
    done = ask(command, *args, "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert one_error_line(done) == error["message"]


# Looking after documents


def test_rm_takes_ids_and_names(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pdf(tmp_path / f"{name}.pdf", [f"{name}: {TURBINE[0]}"])
    run("ingest", "a.pdf", "b.pdf", "c.pdf")
    run("ingest", "a.pdf", "--collection", "other")
    listed = json.loads(run("status", "--json").stdout)
    ids = {d["name"]: d["id"] for d in listed["documents"] if d["collection"] == "default"}
    assert listed["status"]["documents"] == {"indexed": 4}

    assert "give an id" in one_error_line(run("rm", "a.pdf"))
    done = run("rm", ids["a.pdf"], "nope.pdf", "b.pdf")
    assert done.returncode == 1
    assert "nope.pdf" in one_error_line(done)
    assert run("rm", "nope.pdf").returncode == 2
    left = run("status").stdout
    assert "2 indexed" in left
    assert ids["c.pdf"] in left
    assert ids["a.pdf"] not in left
    assert (tmp_path / "b.pdf").exists()


def test_doctor_says_what_is_wrong_and_what_helps(run: Run, tmp_path: Path) -> None:
    well = run("doctor", "--json")
    report = json.loads(well.stdout)
    names = {"python", "packages", "models", "page cost", "ocr", "data folder", "owner", "index"}
    assert names <= {check["name"] for check in report["checks"]}
    wrong = [check for check in report["checks"] if not check["ok"]]
    assert well.returncode == bool(wrong), wrong

    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "catalog.sqlite").write_bytes(b"no database at all" * 100)
    ill = run("doctor")
    assert ill.returncode == 1
    assert re.search(r"^PROBLEM  index: .+\n +-> .+", ill.stdout, re.M)


# One owner


def test_a_second_owner_is_told_who_the_first_is(run: Run, tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "data", Owner(os.getpid(), "ingest", None))
    try:
        done = run("search", "hi", "--json")
        assert done.returncode == 1
        message = one_error_line(done)
        assert "`pageglass ingest`" in message
        assert str(os.getpid()) in message
        assert json.loads(done.stdout)["error"]["code"] == "folder-in-use"
        # Who only looks is in nobody's way.
        for command in ("status", "jobs", "deletions"):
            assert run(command).returncode == 0
    finally:
        lock.release()
    assert run("search", "hi").returncode == 0


def test_commands_go_through_the_server_that_owns_the_folder(run: Run, tmp_path: Path) -> None:
    data, inbox = tmp_path / "data", tmp_path / "inbox"
    with running(data, "serve", "--port", "0", "--watch", inbox) as server:
        address = read_until(server, r"listens at (http://127\.0\.0\.1:\d+)")[1]
        pdf(tmp_path / "ferry.pdf", FERRY)
        done = run("ingest", "ferry.pdf", "missing.pdf")
        assert done.returncode == 1
        assert "indexed    ferry.pdf (2 pages)" in done.stdout
        assert "failed     missing.pdf: no such file" in done.stdout

        # What is dropped into the watched folder is indexed while the server answers.
        pdf(inbox / "turbine.pdf", TURBINE)
        read_until(server, r"^indexed +turbine\.pdf")
        hits = json.loads(run("search", "bearing temperature", "--json").stdout)["pages"]
        assert hits[0]["document_name"] == "turbine.pdf"
        assert json.loads(run("status", "--json").stdout)["server"] == address

        answered = run("ask", QUESTION, "--save-pages", "cited")
        assert "ferry.pdf, page 1" in answered.stdout
        assert (tmp_path / "cited" / "01-ferry-page-1.png").exists()
        with running(data, "watch", tmp_path / "drop", "--collection", "birds") as watcher:
            read_until(watcher, "watching")
            pdf(tmp_path / "drop" / "crane.pdf", [CRANES])
            read_until(watcher, r"^take +\S+crane\.pdf")
            read_until(server, r"^indexed +crane\.pdf \(1 page\)")
        refused = run("serve", "--port", "0")
        assert refused.returncode == 1
        assert address in one_error_line(refused)
        assert run("rm", "turbine.pdf").returncode == 0

        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    left = json.loads(run("status", "--json").stdout)["documents"]
    assert {d["name"]: d["collection"] for d in left} == {
        "ferry.pdf": "default",
        "crane.pdf": "birds",
    }


def test_commands_go_through_the_server_that_is_named(run: Run, tmp_path: Path) -> None:
    there, inbox = tmp_path / "there", tmp_path / "inbox"
    pdf(tmp_path / "ferry.pdf", FERRY)
    with running(there, "serve", "--port", "0") as server:
        address = read_until(server, r"listens at (http://127\.0\.0\.1:\d+)")[1]

        def afar(*args: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
            return pageglass(tmp_path / "data", *args, cwd=tmp_path, PAGEGLASS_URL=address, **more)

        assert "indexed    ferry.pdf" in run("--server", address, "ingest", "ferry.pdf").stdout
        answered = afar("ask", QUESTION, "--save-pages", "cited")
        assert "ferry.pdf, page 1" in answered.stdout
        assert (tmp_path / "cited" / "01-ferry-page-1.png").exists()
        assert json.loads(afar("status", "--json").stdout)["server"] == address
        assert json.loads(afar("jobs", "--json").stdout)["counts"] == {"done": 1}
        assert afar("check").stdout == "all matches\n"

        planned = afar("watch", inbox, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        environ = {"PAGEGLASS_URL": address}
        with running(tmp_path / "data", "watch", inbox, **environ) as watcher:
            read_until(watcher, "watching")
            pdf(inbox / "crane.pdf", [CRANES])
            read_until(watcher, r"^take +\S+crane\.pdf")
            read_until(server, r"^indexed +crane\.pdf \(1 page\)")
        # This machine's files are not taken for those of another with the same paths.
        assert "take " in run("--data-dir", there, "watch", inbox, "--dry-run").stdout
        assert json.loads(afar("watch", inbox, "--dry-run", "--json").stdout)["plan"] == []
        assert "crane.pdf" in afar("rm", "crane.pdf").stdout

        for args in (("serve",), ("backup", "copy"), ("doctor",), ("models", "pull")):
            refused = afar(*args)
            assert refused.returncode == 2
            assert f"`pageglass {args[0]}" in one_error_line(refused)
        assert run("--server", address, "--data-dir", there, "status").returncode == 2
        # What is said here goes before what the environment says.
        assert "x is no data folder" in one_error_line(afar("--data-dir", "x", "status"))
        assert "characters" in one_error_line(afar("status", PAGEGLASS_KEY="a b"))
    gone = afar("status")
    assert gone.returncode == 1
    assert "is it still running" in one_error_line(gone)
    assert not (tmp_path / "data").exists()
    assert run("--server", "localhost", "status").returncode == 2


def test_watch_indexes_what_is_dropped_until_ctrl_c(run: Run, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with running(tmp_path / "data", "watch", inbox) as watcher:
        read_until(watcher, "watching")
        pdf(inbox / "ferry.pdf", FERRY)
        read_until(watcher, r"^indexed +ferry\.pdf \(2 pages\)")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(timeout=30) == 0
    assert "1 indexed" in run("status").stdout


def test_a_plan_says_what_watching_would_do_and_does_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "inbox" / "sub").mkdir(parents=True)
    pdf(tmp_path / "inbox" / "sub" / "ferry.pdf", FERRY)
    done = run("watch", "inbox", "--dry-run", "--by-folder", "--json")
    assert json.loads(done.stdout)["plan"] == [
        {
            "action": "take",
            "path": str(tmp_path / "inbox" / "sub" / "ferry.pdf"),
            "collection": "sub",
            "reason": "",
        }
    ]
    assert not (tmp_path / "data").exists()


# Jobs and upkeep


def test_jobs_are_shown_cancelled_and_tried_again(
    run: Run, settings: Settings, tmp_path: Path
) -> None:
    with Services(settings, command="test") as services:
        queued = services.add(io.BytesIO(b"this is no PDF"), name="a\x1b[31m.pdf")
    shown = run("jobs")
    assert shown.stdout == f"queued     {queued.id}  a\ufffd[31m.pdf\n"
    assert shown.stderr == "1 queued\n"
    assert run("cancel", queued.id).stdout == "cancelled: 1\n"
    assert "no work on this document" in one_error_line(run("cancel", queued.id))
    assert run("jobs").stdout == ""
    assert run("retry", queued.id).stdout == "queued again: 1\n"

    assert run("ingest").returncode == 1
    listed = json.loads(run("jobs", "--state", "dead", "--json").stdout)
    assert listed["counts"] == {"dead": 1}
    [dead] = listed["jobs"]
    assert (dead["document_id"], dead["state"]) == (queued.id, "dead")
    assert dead["reason"]
    assert json.loads(run("retry", "--all", "--json").stdout) == {"retried": 1}
    assert "in work      1" in run("status").stdout


def test_held_removals_are_listed_and_settled_by_folder(
    run: Run, settings: Settings, tmp_path: Path
) -> None:
    with Services(settings, command="test") as services:
        for name in ("inbox", "inbox2"):
            path = tmp_path / name / "gone.pdf"
            services.writer.take(
                io.BytesIO(name.encode()),
                collection="default",
                path=str(path),
                folder=str(path.parent),
                state=FileState(1, 0, 1, 0),
                unchanged=lambda: True,
            )
            services.writer.hold(services.writer.sources(str(path.parent)))
    assert "held         2 removals" in run("status").stdout
    listed = json.loads(run("deletions", "--folder", "inbox/", "--json").stdout)["deletions"]
    assert [one["path"] for one in listed] == [str(tmp_path / "inbox" / "gone.pdf")]
    assert run("deletions", "--keep", "--folder", "inbox").stdout == "kept: 1\n"
    assert run("deletions", "--remove").stdout == "removed: 1\n"
    left = json.loads(run("status", "--json").stdout)
    assert left["status"]["held"] == 0
    assert len(left["documents"]) == 1


def test_check_says_what_does_not_match_and_repairs_it(run: Run, tmp_path: Path) -> None:
    pdf(tmp_path / "ferry.pdf", FERRY)
    run("ingest", "ferry.pdf")
    sound = run("check", "--deep")
    assert (sound.returncode, sound.stdout) == (0, "all matches\n")
    next((tmp_path / "data" / "images").glob("??/*.jpg")).unlink()
    found = run("check")
    assert found.returncode == 1
    assert re.match(r"PROBLEM the image of page \d of ferry\.pdf is missing", found.stdout)
    assert "--repair" in found.stderr
    mended = run("check", "--repair")
    assert mended.returncode == 0
    assert "`pageglass ingest`" in mended.stdout
    assert run("ingest").returncode == 0
    assert json.loads(run("check", "--json").stdout) == {"findings": []}


def test_a_backup_is_a_data_folder_of_its_own(indexed: Path, ask: Run, tmp_path: Path) -> None:
    done = ask("backup", "copy", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "copy")
    refused = ask("backup", "copy")
    assert refused.returncode == 2
    assert "already" in one_error_line(refused)
    found = json.loads(ask("--data-dir", "copy", "search", QUESTION, "--json").stdout)["pages"]
    assert found == json.loads(ask("search", QUESTION, "--json").stdout)["pages"]


def test_the_work_can_be_followed_line_by_line_until_ctrl_c(
    settings: Settings, tmp_path: Path
) -> None:
    with Services(settings, command="test") as services:
        services.add(io.BytesIO(b"this is no PDF"), name="broken.pdf")
        with running(tmp_path / "data", "status", "--follow") as follower:
            read_until(follower, r"^queued +\w+  broken\.pdf$")
            assert [report.outcome for report in services.ingest([])] == ["failed"]
            read_until(follower, r"^dead +\w+  broken\.pdf: .")
            follower.send_signal(signal.SIGINT)
            assert follower.wait(timeout=30) == 0


@pytest.mark.parametrize("args", [("status", "--follow"), ("jobs", "-f"), ("watch", "inbox")])
def test_what_never_ends_prints_no_json(run: Run, args: tuple[str, ...]) -> None:
    done = run(*args, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_a_terminal_sees_the_work_in_place(settings: Settings, tmp_path: Path) -> None:
    with Services(settings, command="test") as services:
        services.add(io.BytesIO(b"this is no PDF"), name="waiting.pdf")
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "jobs", "--follow"],
        env=environment(tmp_path / "data") | {"TERM": "xterm", "COLUMNS": "100"},
        cwd=tmp_path,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        seen = b""
        while b"1 queued" not in seen:
            chunk = _read(master)
            assert chunk, seen
            seen += chunk
        process.send_signal(signal.SIGINT)
        while chunk := _read(master):
            seen += chunk
        assert process.wait(timeout=30) == 0
    os.close(master)
    assert b"waiting.pdf" in seen
    assert seen.rstrip().endswith(b"stopped")


# Stopping


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_a_state_the_same_command_goes_on_from(
    run: Run, tmp_path: Path, how: signal.Signals
) -> None:
    pdf(tmp_path / "long.pdf", [f"Section {n}. " + FERRY[n % 2] * 4 for n in range(16)])
    with running(tmp_path / "data", "ingest", "long.pdf") as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "data" / "images").glob("??/*.jpg")):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(how)
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 130
    assert out.splitlines()[-1].endswith("stopped; run the same command again to go on")
    assert "Traceback" not in out
    again = run("ingest", "long.pdf")
    assert again.returncode == 0
    assert "indexed    long.pdf (16 pages)" in again.stdout


def test_a_terminal_sees_a_bar_and_plain_result_lines(tmp_path: Path) -> None:
    pdf(tmp_path / "ferry.pdf", [FERRY[0]] * 3)
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "ingest", "ferry.pdf"],
        env=environment(tmp_path / "data") | {"TERM": "xterm", "COLUMNS": "100"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=slave,
    ) as process:
        os.close(slave)
        seen = io.BytesIO()
        while chunk := _read(master):
            seen.write(chunk)
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(master)
    assert process.returncode == 0
    assert out == "indexed    ferry.pdf (3 pages)\n"
    assert "pages" in seen.getvalue().decode()
    assert "left" in seen.getvalue().decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # The other end is closed.
        return b""


# Words


def test_nothing_a_document_says_reaches_the_terminal_as_a_command() -> None:
    assert printable("a\x1b[31mb\r\u202ec\u00a0d\ne") == "a\ufffd[31mb \ufffdc d\ne"
    assert one_line(" a\n\tb ") == "a b"
    hostile = page_file(Path("cited"), 1, "../../etc/pass wd\x00.pdf", 3)
    assert hostile == Path("cited/01-pass-wd--page-3.png")


def test_file_names_that_are_no_utf8_survive(run: Run, tmp_path: Path) -> None:
    odd: Any = os.fsencode(tmp_path) + b"/f\xff.pdf"
    pdf(tmp_path / "x.pdf", FERRY).rename(os.fsdecode(odd))
    done = run("ingest", ".", "--json")
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)["files"]
    assert report["outcome"] == "indexed"


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "jobs",
        "deletions",
        "deletions --keep",
        "check",
        "check --repair",
        "search hi",
        "ask hi",
        "backup copy",
        "retry --all",
        "cancel a.pdf",
        "rm a.pdf",
        "ingest",
        "keys list",
        "keys revoke k",
        "keys rotate k",
        "copy --to http://127.0.0.1:9",
        "mcp",
    ],
)
def test_what_only_reads_or_changes_makes_no_data_folder(
    run: Run, tmp_path: Path, command: str
) -> None:
    done = run(*command.split(), *(["--json"] if command == "status" else []))
    assert done.returncode == 1
    assert "is no data folder: `pageglass ingest PATH` makes one" in one_error_line(done)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "copy").exists()
    if command == "status":
        assert json.loads(done.stdout)["error"]["code"] == "no-data-folder"


def test_ingest_without_a_path_has_nothing_to_do_where_nothing_is_queued(run: Run) -> None:
    run("keys", "add", "me", "--scope", "ask")
    done = run("ingest")
    assert done.returncode == 0
    assert done.stderr.strip() == "nothing is queued: name files, or folders of them"


# A Qdrant server


def test_copy_moves_the_vectors_and_the_server_is_searched_from_then_on(
    indexed: Path, ask: Run, tmp_path: Path
) -> None:
    here = ask("search", QUESTION, "--json")
    with qdrant_http() as qdrant:
        done = ask("copy", "--to", qdrant.url)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"\s*3 pages of text--minilm-l6-v2-2\n", done.stdout)
        assert json.loads(ask("copy", "--to", qdrant.url, "--json").stdout)["copied"] == {
            "text--minilm-l6-v2-2": 3
        }
        (tmp_path / "pageglass.toml").write_text(f'[index]\nurl = "{qdrant.url}"\n')
        before = len(qdrant.requests)
        there = ask("search", QUESTION, "--json")
        assert len(qdrant.requests) > before
        assert "already" in one_error_line(ask("copy", "--to", qdrant.url))
    pages = [
        [(page["document_id"], page["page"]) for page in json.loads(done.stdout)["pages"]]
        for done in (here, there)
    ]
    assert pages[0] == pages[1]
    gone = ask("search", QUESTION)
    assert gone.returncode == 1
    assert "index.url" in one_error_line(gone)


@pytest.mark.parametrize(
    ("keys", "host", "said"),
    [
        ("on", "127.0.0.1", "there is none yet: `pageglass keys add NAME --scope admin`"),
        ("off", "0.0.0.0", "whoever reaches it can read and remove everything"),
    ],
)
def test_serve_says_what_stands_between_it_and_everybody(
    tmp_path: Path, keys: str, host: str, said: str
) -> None:
    args = ("serve", "--port", "0", "--host", host)
    with running(tmp_path / "data", *args, PAGEGLASS_SERVER__KEYS=keys) as server:
        read_until(server, said)


def test_keys_are_made_listed_rotated_and_revoked(run: Run) -> None:
    made = run("keys", "add", "intranet", "--scope", "ask", "--collection", "manuals")
    assert "warning: nothing is in the collection manuals yet; there are default" in made.stderr
    text = made.stdout.strip()
    assert re.fullmatch(r"pgk_[0-9a-f]{12}_[\w-]{43}", text)
    id = text.split("_")[1]
    listed = run("keys", "list").stdout
    assert f"{id}  intranet: ask in manuals; good, never used" in listed
    assert text not in listed
    rotated = json.loads(run("keys", "rotate", id, "--keep-hours", "0", "--json").stdout)
    assert rotated["collections"] == ["manuals"]
    assert f"{id}  intranet: ask in manuals; expired" in run("keys", "list").stdout
    assert run("keys", "revoke", rotated["key"]).stdout == f"revoked {rotated['id']} (intranet)\n"
    unknown = run("keys", "revoke", "nobody's")
    assert unknown.returncode == 2
    assert "`pageglass keys list` lists them" in unknown.stderr
    assert run("keys", "add", "x", "--scope", "everything").returncode == 2

"""ingest.office: on LibreOffice where it is installed, and on programs that behave badly."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from ingest.formats import OLE2, SUFFIXES, kind_of, sniff
from ingest.office import _FILTERS, convert, find_libreoffice
from ingest.pdf import PdfReader, RawPage
from pageglass.errors import (
    DiskFull,
    DocumentError,
    EncryptedDocument,
    FormatUnsupported,
    LimitExceeded,
    NotADocument,
    PageglassError,
)
from pageglass.settings import IngestSettings
from tests.tiny import pdf

ROOT = Path(__file__).parents[1]
# Not where it would rather be full: the disk of whoever runs the tests may be.
SETTINGS = IngestSettings.model_validate({"reserve_mb": 0})
# The programs that stand in for LibreOffice are scripts, whose interpreter may be anywhere.
LOOSE = SETTINGS.model_copy(update={"confine_office": False})
HURRIED = IngestSettings.model_validate(
    {"reserve_mb": 0, "confine_office": False, "limits": {"convert_seconds": 2}}
)

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the programs are scripts with a #! line"
)
needs_libreoffice = pytest.mark.skipif(
    find_libreoffice() is None, reason="LibreOffice is not installed"
)


# Files made on the spot


def zipped(path: Path, **parts: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def office_open_xml(path: Path, main: str, kind: str, content: str, **more: str) -> Path:
    """A package whose main part is ``main``; ``more`` are worksheets that it relates to."""
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/content-types"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    mime = "application/vnd.openxmlformats-officedocument"
    sheet_type = f"{mime}.spreadsheetml.worksheet+xml"
    types = {main: f"{mime}.{kind}.main+xml"} | dict.fromkeys(more, sheet_type)
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{type}"/>' for name, type in types.items()
    )
    rels = "application/vnd.openxmlformats-package.relationships+xml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}"><Default Extension="rels" ContentType='
        f'"{rels}"/>{overrides}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r" Target="{main}" '
        f'Type="{office}/officeDocument"/></Relationships>',
        main: content,
    }
    folder, _, name = main.rpartition("/")
    related = "".join(
        f'<Relationship Id="r{n}" Type="{office}/worksheet" Target="{sheet[len(folder) + 1 :]}"/>'
        for n, sheet in enumerate(more)
    )
    parts[f"{folder}/_rels/{name}.rels"] = (
        f'<Relationships xmlns="{relations}">{related}</Relationships>'
    )
    return zipped(path, **parts, **more)


def docx(path: Path, text: str = "Hello office") -> Path:
    main = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return office_open_xml(
        path,
        "word/document.xml",
        "wordprocessingml.document",
        f'<w:document xmlns:w="{main}"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>'
        "</w:document>",
    )


def xlsx(path: Path) -> Path:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    sheet = (
        f'<worksheet xmlns="{main}"><sheetData><row r="1"><c r="A1" t="inlineStr"><is>'
        '<t>Hello</t></is></c><c r="B1"><f>40+2</f></c></row></sheetData></worksheet>'
    )
    return office_open_xml(
        path,
        "xl/workbook.xml",
        "spreadsheetml.sheet",
        f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="One" sheetId="1" r:id="r0"/></sheets></workbook>',
        **{"xl/worksheets/sheet1.xml": sheet},
    )


def open_document(path: Path, kind: str, body: str, entry: str = "") -> Path:
    mime = f"application/vnd.oasis.opendocument.{kind}"
    names = {
        "office": "office", "text": "text", "draw": "drawing", "table": "table",
        "svg": "svg-compatible", "manifest": "manifest",
    }  # fmt: skip
    spaces = " ".join(
        f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for prefix, name in names.items()
    )
    return zipped(
        path,
        **{
            "mimetype": mime,
            "content.xml": f'<office:document-content {spaces} office:version="1.3" '
            'xmlns:of="urn:oasis:names:tc:opendocument:xmlns:of:1.2" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink"><office:body><office:{kind}>{body}'
            f"</office:{kind}></office:body></office:document-content>",
            "META-INF/manifest.xml": f'<manifest:manifest {spaces} manifest:version="1.3">'
            f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{mime}"/>'
            '<manifest:file-entry manifest:full-path="content.xml" '
            f'manifest:media-type="text/xml">{entry}</manifest:file-entry></manifest:manifest>',
        },
    )


def odt(path: Path, body: str = "<text:p>Hello office</text:p>") -> Path:
    return open_document(path, "text", body)


def ods(path: Path) -> Path:
    cell = '<table:table-cell office:value-type="string"><text:p>Hello</text:p></table:table-cell>'
    sum_ = '<table:table-cell table:formula="of:=40+2" office:value-type="float"/>'
    row = f"<table:table-row>{cell}{sum_}</table:table-row>"
    return open_document(path, "spreadsheet", f'<table:table table:name="a">{row}</table:table>')


def odp(path: Path) -> Path:
    frame = (
        '<draw:frame svg:x="1cm" svg:y="1cm" svg:width="9cm" svg:height="2cm"><draw:text-box>'
        "<text:p>Hello office</text:p></draw:text-box></draw:frame>"
    )
    return open_document(path, "presentation", f"<draw:page>{frame}</draw:page>" * 2)


def rtf(path: Path) -> Path:
    path.write_text(r"{\rtf1\ansi Hello office\par}")
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def texts_of(path: Path) -> list[list[str]]:
    with PdfReader(SETTINGS) as reader:
        pages = list(reader.pages(path, range(reader.open(path).pages)))
    return [[word.text for word in page.words] for page in pages if isinstance(page, RawPage)]


# LibreOffice itself


@needs_libreoffice
@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (docx, [["Hello", "office"]]),
        (xlsx, [["Hello", "42"]]),
        (odt, [["Hello", "office"]]),
        (ods, [["a", "Page", "1", "Hello", "42"]]),
        (odp, [["Hello", "office"]] * 2),
        (rtf, [["Hello", "office"]]),
    ],
)
def test_office_files_become_pdfs(
    tmp_path: Path, make: Callable[[Path], Path], texts: list[list[str]]
) -> None:
    path = make(tmp_path / f"file.{make.__name__}")
    with path.open("rb") as file:
        assert sniff(file, "upload").suffix == path.suffix
    target = tmp_path / "made" / "file.pdf"
    target.parent.mkdir()
    convert(path, target, SETTINGS)
    assert texts_of(target) == texts
    assert names_in(target.parent) == ["file.pdf"]


@needs_libreoffice
def test_nothing_that_a_document_links_to_is_fetched(tmp_path: Path) -> None:
    asked: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            asked.append("a connection")

    Image.new("RGB", (90, 90), "red").save(tmp_path / "private.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        links = (
            f"http://127.0.0.1:{server.server_port}/beacon.png",
            (tmp_path / "private.png").as_uri(),
        )
        frames = "".join(
            '<draw:frame svg:width="9cm" svg:height="9cm" text:anchor-type="as-char">'
            f'<draw:image xlink:href="{link}" xlink:type="simple"/></draw:frame>'
            for link in links
        )
        path = odt(tmp_path / "file.odt", f"<text:p>seen {frames}</text:p>")
        convert(path, tmp_path / "file.pdf", SETTINGS)
        server.shutdown()
    with PdfReader(SETTINGS) as reader:
        (page,) = reader.pages(tmp_path / "file.pdf", [0])
    assert isinstance(page, RawPage)
    assert page.words[0].text == "seen"
    with Image.open(io.BytesIO(page.image)) as image:
        colours = image.convert("RGB").getcolors(2**24) or []
    assert not [c for _, c in colours if isinstance(c, tuple) and c[0] > 200 and c[1] < 60]
    assert asked == []


def test_every_office_format_has_a_filter() -> None:
    assert set(_FILTERS) == {suffix for suffix in SUFFIXES if kind_of(suffix) == "office"}


@needs_libreoffice
def test_a_damaged_file_is_no_document(tmp_path: Path) -> None:
    path = docx(tmp_path / "file.docx")
    for data in (path.read_bytes()[:300], b"what LibreOffice would take for plain text\n"):
        path.write_bytes(data)
        with pytest.raises(NotADocument, match="LibreOffice makes no pages of it"):
            convert(path, tmp_path / "file.pdf", SETTINGS)
        assert names_in(tmp_path) == ["file.docx"]


@needs_libreoffice
@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8])
def test_a_killed_libreoffice_leaves_nothing(
    office_file: Path, target: Path, seconds: float
) -> None:
    def sockets() -> set[Path]:
        return set(Path("/tmp").glob("OSL_PIPE_*"))

    before = sockets()
    hurried = IngestSettings.model_validate({"limits": {"convert_seconds": seconds}})
    with contextlib.suppress(LimitExceeded):
        convert(office_file, target, hurried)
    # Those of another LibreOffice that runs meanwhile go when it ends.
    wait_until(lambda: sockets() <= before, "its socket was left behind")


# Programs that stand in for it


@pytest.fixture
def soffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a program on PATH that does what its code says; ``made`` is where the PDF belongs, and
    ``note`` the path of a file, which is returned."""

    def install(*code: str) -> Path:
        folder, note = tmp_path / "bin", tmp_path / "note"
        folder.mkdir()
        program = folder / "soffice"
        start = (
            f"#!{sys.executable}\n"
            "import json, os, pathlib, resource, signal, subprocess, sys, time\n"
            f"note = pathlib.Path({str(note)!r})\n"
            "source = pathlib.Path(sys.argv[-1])\n"
            "made = pathlib.Path(sys.argv[sys.argv.index('--outdir') + 1], 'document.pdf')\n"
            "made.parent.mkdir()\n"
        )
        program.write_text("\n".join([start, *map(textwrap.dedent, code)]))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return note

    return install


@pytest.fixture
def office_file(tmp_path: Path) -> Path:
    return docx(tmp_path / "file.docx")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """Where the PDF belongs; nothing else may ever be left there."""
    folder = tmp_path / "made"
    folder.mkdir()
    yield folder / "file.pdf"
    assert names_in(folder) in ([], ["file.pdf"])


def wait_until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def is_gone(pid: str) -> bool:
    """Whether a process is no more, or only waits to be asked for its exit status."""
    status = Path("/proc", pid, "stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


PRINTS = """
    import pymupdf
    with pymupdf.open() as document:
        document.new_page().insert_text((72, 100), "printed")
        document.save(made)
"""


def test_the_program_gets_a_copy_and_a_world_of_its_own(
    soffice: Callable[..., Path],
    office_file: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2")
    note = soffice(
        """
        profile = next(a for a in sys.argv if a.startswith("-env:UserInstallation=file://"))
        options = pathlib.Path(profile.partition("file://")[2], "user/registrymodifications.xcu")
        most = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
                for name in ("AS", "CPU", "FSIZE", "CORE")}
        note.write_text(json.dumps({
            "source": str(source), "content": source.read_bytes().hex(), "home": os.environ["HOME"],
            "here": os.getcwd(), "environment": dict(os.environ), "options": options.read_text(),
            "limits": most, "session": os.getsid(0), "group": os.getpgid(0),
        }))
        """,
        PRINTS,
    )
    convert(office_file, target, LOOSE)
    assert texts_of(target) == [["printed"]]
    seen = json.loads(note.read_text())
    folder = Path(seen["home"])
    assert (folder.parent, folder.name[0], folder.exists()) == (target.parent, ".", False)
    assert Path(seen["here"]) == folder
    assert Path(seen["source"]) == folder / "document.docx"
    assert bytes.fromhex(seen["content"]) == office_file.read_bytes()
    assert "hunter2" not in seen["environment"].values()
    assert 'name="DisableMacrosExecution" oor:op="fuse"><value>true<' in seen["options"]
    limits = LOOSE.limits
    assert seen["limits"]["FSIZE"] == [limits.file_mb * 2**20] * 2
    assert seen["limits"]["CORE"] == [0, 0]
    assert limits.convert_seconds <= seen["limits"]["CPU"][1] < 10**6
    if sys.platform == "linux":
        assert limits.memory_mb * 2**20 < seen["limits"]["AS"][1] < 2**40
    assert os.getsid(0) != seen["session"] != seen["group"] != os.getpgid(0)


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "--map-root-user", "--net", "true"], check=False).returncode != 0,
    reason="a process may not leave the network here",
)
def test_the_program_has_no_network_where_the_system_allows_that(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    note = soffice("note.write_text(f\"{os.getuid()} {os.readlink('/proc/self/ns/net')}\")", PRINTS)
    convert(office_file, target, LOOSE)
    user, network = note.read_text().split()
    assert int(user) == os.getuid()
    assert network != str(Path("/proc/self/ns/net").readlink())


def test_a_program_that_hangs_is_killed_with_all_that_it_started(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    note = soffice(
        """
        child = subprocess.Popen(["sleep", "300"])
        made.write_bytes(b"%PDF-1.7 half of it")
        note.write_text(f"{os.getpid()} {child.pid}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
        """
    )
    start = time.monotonic()
    with pytest.raises(LimitExceeded) as error:
        convert(office_file, target, HURRIED)
    assert time.monotonic() - start < 6
    assert str(error.value) == (
        "LibreOffice took more than 2 seconds (setting ingest.limits.convert_seconds)"
    )
    for pid in note.read_text().split():
        wait_until(lambda pid=pid: is_gone(pid), "a process was left behind")


def test_processes_that_a_program_leaves_behind_are_ended(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    note = soffice('note.write_text(str(subprocess.Popen(["sleep", "300"]).pid))', PRINTS)
    convert(office_file, target, LOOSE)
    assert texts_of(target) == [["printed"]]
    wait_until(lambda: is_gone(note.read_text()), "a process was left behind")


def test_nothing_outlives_a_killed_parent(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    note = soffice(
        """
        child = subprocess.Popen(["sleep", "300"])
        unfinished = note.with_name("unfinished")
        unfinished.write_text(f"{os.getpid()} {child.pid}")
        unfinished.rename(note)
        time.sleep(300)
        """
    )
    code = (
        "import sys\nfrom pathlib import Path\nfrom ingest.office import convert\n"
        "from pageglass.settings import IngestSettings\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), IngestSettings(confine_office=False))"
    )
    command = [sys.executable, "-c", code, str(office_file), str(target)]
    with subprocess.Popen(command, cwd=ROOT) as parent:
        wait_until(note.exists, "the program was not started")
        assert len(names_in(target.parent)) == 1
        parent.send_signal(signal.SIGKILL)
    for pid in note.read_text().split():
        wait_until(lambda pid=pid: is_gone(pid), "a process outlived its parent")
    wait_until(lambda: names_in(target.parent) == [], "the folder was left behind")


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit(1)",
        "sys.exit(0)",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "made.write_bytes(b'')",
        "made.write_bytes(b'%PDF-1.7 and then it crashed')",
        "made.write_bytes(bytes(3 * 2**20) + b'%%EOF')",  # beyond the largest file
    ],
)
def test_a_program_that_gives_no_whole_pdf_gives_none(
    soffice: Callable[..., Path], office_file: Path, target: Path, code: str
) -> None:
    soffice(code)
    small = IngestSettings.model_validate(
        {"reserve_mb": 0, "confine_office": False, "limits": {"file_mb": 2}}
    )
    pdf(target, ["of an earlier time"])
    with pytest.raises(NotADocument, match="LibreOffice makes no pages of it"):
        convert(office_file, target, small)
    assert texts_of(target) == [["of", "an", "earlier", "time"]]


def test_a_crash_after_the_last_byte_does_no_harm(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    soffice(PRINTS, "os.kill(os.getpid(), signal.SIGSEGV)")
    convert(office_file, target, LOOSE)
    assert texts_of(target) == [["printed"]]


def test_a_full_disk_is_not_the_files_fault(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    soffice("sys.exit(1)")
    wanting = IngestSettings.model_validate({"reserve_mb": 2**40, "confine_office": False})
    with pytest.raises(DiskFull, match="free some"):
        convert(office_file, target, wanting)


def test_a_program_that_does_not_start_is_not_the_files_fault(
    soffice: Callable[..., Path], office_file: Path, target: Path, tmp_path: Path
) -> None:
    soffice("")
    (tmp_path / "bin" / "soffice").write_text("#!/nowhere/at/all\n")
    with pytest.raises(PageglassError, match="does not start") as error:
        convert(office_file, target, LOOSE)
    assert not isinstance(error.value, DocumentError)


def test_without_libreoffice_the_message_says_how_to_get_it(
    office_file: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if find_libreoffice() is not None:
        pytest.skip("LibreOffice is installed where PATH does not matter")
    with pytest.raises(FormatUnsupported, match=r"office files need LibreOffice: install it"):
        convert(office_file, target, LOOSE)


def test_office_files_can_be_switched_off(
    soffice: Callable[..., Path], office_file: Path, target: Path
) -> None:
    note = soffice("note.touch()")
    with pytest.raises(FormatUnsupported, match=r"setting ingest\.office"):
        convert(office_file, target, IngestSettings(office=False))
    assert not note.exists()


def test_the_program_is_found_on_path(soffice: Callable[..., Path], tmp_path: Path) -> None:
    soffice("")
    assert find_libreoffice() == str(tmp_path / "bin" / "soffice")
    (tmp_path / "bin" / "soffice").chmod(stat.S_IRUSR)  # no program
    assert find_libreoffice() != str(tmp_path / "bin" / "soffice")


# Passwords


def compound_file(path: Path, *streams: str) -> Path:
    """The sectors of a compound file that name its streams ([MS-CFB] 2.6); no content."""

    def entry(name: str, kind: int) -> bytes:
        encoded = name.encode("utf-16-le")
        length = (len(encoded) + 2).to_bytes(2, "little")
        return (encoded.ljust(64, b"\0") + length + bytes([kind])).ljust(128, b"\0")

    entries = [entry("Root Entry", 5), *(entry(name, 2) for name in streams)]
    path.write_bytes(OLE2.ljust(512, b"\0") + b"".join(entries).ljust(1024, b"\0"))
    return path


def test_a_file_with_a_password_is_told_before_anything_is_started(
    soffice: Callable[..., Path], target: Path, tmp_path: Path
) -> None:
    note = soffice("note.touch()")
    data = '<manifest:encryption-data manifest:checksum="x"/>'
    for path in (
        compound_file(tmp_path / "a.docx", "EncryptionInfo", "EncryptedPackage"),
        open_document(tmp_path / "a.odt", "text", "", entry=data),
    ):
        with pytest.raises(EncryptedDocument, match="needs a password: save a copy without one"):
            convert(path, target, LOOSE)
    assert not note.exists()
    compound_file(tmp_path / "b.doc", "WordDocument", "1Table")
    with pytest.raises(NotADocument):
        convert(tmp_path / "b.doc", target, LOOSE)
    assert note.exists()

"""What opens other people's files sees those files, and no others."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from ingest import office
from ingest._confinement import supported
from ingest.office import confinement, convert
from ingest.pdf import PdfReader, RawPage
from pageglass.errors import FormatUnsupported
from pageglass.settings import IngestSettings
from tests.test_office import SETTINGS, docx, needs_libreoffice, open_document, xlsx, zipped

ROOT = Path(__file__).parents[1]
SECRET = "SECRETWORDS 4711"
needs_landlock = pytest.mark.skipif(not supported(), reason="this system has no Landlock")

# What each of these may still do, as JSON: {"read": "PermissionError", ...}.
PROBE = """
import json, os, socket, subprocess, sys
from pathlib import Path
order = json.loads(sys.argv[1])
def tried(what):
    try:
        what()
        return "done"
    except Exception as error:
        return type(error).__name__
sys.path.insert(0, order["root"])
CONFINE
secret, port = Path(order["secret"]), order["port"]
print(json.dumps({
    "read": tried(secret.read_text),
    "list": tried(lambda: os.listdir(secret.parent)),
    "write": tried(lambda: secret.with_name("new").write_text("x")),
    "append": tried(lambda: open(secret, "a").write("x")),
    "remove": tried(secret.unlink),
    "run": tried(lambda: subprocess.run(["/bin/sh", "-c", "true"])),
    "environment": tried(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", port), 2)),
    "signal": tried(lambda: os.kill(os.getppid(), 0)),
    "import": tried(lambda: __import__("xml.etree.ElementTree")),
}))
"""


def probed(tmp_path: Path, confine: str) -> dict[str, str]:
    secret = tmp_path / "secret" / "file.txt"
    secret.parent.mkdir()
    secret.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listener.accept, daemon=True).start()
        order = {
            "root": str(ROOT),
            "secret": str(secret),
            "port": listener.getsockname()[1],
        }
        done = subprocess.run(
            [sys.executable, "-c", PROBE.replace("CONFINE", confine), json.dumps(order)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert secret.read_text() == SECRET
    return json.loads(done.stdout)


@needs_landlock
def test_the_child_that_opens_pdfs_and_pictures_reaches_nothing_else(tmp_path: Path) -> None:
    may = probed(tmp_path, "from ingest import _pdf_child\n_pdf_child._confine()")
    if supported() < 4:
        del may["connect"]
    if supported() < 6:
        del may["signal"]
    assert may.pop("import") == "done"
    assert set(may.values()) == {"PermissionError"}, may


@needs_landlock
def test_what_is_allowed_is_allowed(tmp_path: Path) -> None:
    may = probed(
        tmp_path,
        "import sysconfig\nfrom ingest._confinement import confine\n"
        "folder = os.path.dirname(order['secret'])\n"
        "assert confine(read=[sysconfig.get_path('stdlib'), '/bin', '/usr/bin', '/lib',"
        " '/usr/lib', '/lib64', '/not/there', folder])",
    )
    assert (may["read"], may["list"], may["run"]) == ("done", "done", "done")
    assert {may[name] for name in ("write", "append", "remove")} == {"PermissionError"}


# Documents that name other files


def relations(kind: str, targets: Sequence[str]) -> str:
    namespace = "http://schemas.openxmlformats.org/package/2006/relationships"
    type = f"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}"
    each = "".join(
        f'<Relationship Id="far{n}" Type="{type}" Target="{target}" TargetMode="External"/>'
        for n, target in enumerate(targets)
    )
    return f'<Relationships xmlns="{namespace}">{each}</Relationships>'


def with_part(path: Path, name: str, change: Callable[[str], str]) -> Path:
    """The package with one of its parts changed; a part that is not there yet is empty."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part).decode() for part in archive.namelist()}
    return zipped(path, **parts | {name: change(parts.get(name, ""))})


Targets = Sequence[str]


def rtf(path: Path, targets: Targets) -> Path:
    codes = (
        *(r'INCLUDEPICTURE "{}" \\d', r'INCLUDEPICTURE "{}" \\* MERGEFORMAT', 'INCLUDETEXT "{}"'),
        *(r'LINK Word.Document.8 "{}" "" \\a \\r', 'DDEAUTO soffice "{}" "s"'),
    )
    fields = "".join(
        r"{\field{\*\fldinst " + code.format(target) + r"}{\fldrslt x}}\par "
        for code in codes
        for target in targets
    )
    path.write_text(r"{\rtf1 seen\par " + fields + "}")
    return path


def docx_links(path: Path, targets: Targets) -> Path:
    fields = "".join(
        f"<w:fldSimple w:instr='INCLUDETEXT &quot;{target}&quot;'><w:r><w:t>x</w:t></w:r>"
        "</w:fldSimple>"
        for target in targets
    )
    drawing = "http://schemas.openxmlformats.org/drawingml/2006"
    pictures = "".join(
        f'<w:r><w:drawing><wp:inline xmlns:wp="{drawing}/wordprocessingDrawing">'
        f'<wp:extent cx="3600000" cy="720000"/><wp:docPr id="{n}" name="p"/>'
        f'<a:graphic xmlns:a="{drawing}/main"><a:graphicData uri="{drawing}/picture">'
        f'<pic:pic xmlns:pic="{drawing}/picture"><pic:nvPicPr><pic:cNvPr id="{n}" name="p"/>'
        f'<pic:cNvPicPr/></pic:nvPicPr><pic:blipFill><a:blip r:link="far{n}" xmlns:r='
        '"http://schemas.openxmlformats.org/officeDocument/2006/relationships"/>'
        '<a:stretch><a:fillRect/></a:stretch></pic:blipFill><pic:spPr><a:xfrm><a:off x="0" y="0"/>'
        '<a:ext cx="3600000" cy="720000"/></a:xfrm><a:prstGeom prst="rect"/></pic:spPr></pic:pic>'
        "</a:graphicData></a:graphic></wp:inline></w:drawing></w:r>"
        for n in range(len(targets))
    )
    docx(path, f"</w:t></w:r>{fields}{pictures}<w:r><w:t>seen")
    return with_part(path, "word/_rels/document.xml.rels", lambda _: relations("image", targets))


def xlsx_links(path: Path, targets: Targets) -> Path:
    cells = "".join(
        f'<c r="C{n}"><f>WEBSERVICE("{target}")</f></c><c r="D{n}"><f>\'{target}\'#$A.A1</f></c>'
        for n, target in enumerate(targets, start=1)
    )
    name = "xl/worksheets/sheet1.xml"
    return with_part(xlsx(path), name, lambda sheet: sheet.replace("</row>", f"{cells}</row>"))


def frames(kinds: Sequence[str], targets: Targets) -> str:
    return "".join(
        '<draw:frame svg:width="9cm" svg:height="2cm" text:anchor-type="as-char"><draw:'
        f'{kind} xlink:href="{target}" xlink:type="simple" xlink:show="embed"/></draw:frame>'
        for kind in kinds
        for target in targets
    )


def odt(path: Path, targets: Targets) -> Path:
    sections = "".join(
        f'<text:section text:name="s{n}"><text:section-source xlink:href="{target}"'
        ' xlink:type="simple"/><text:p>was here</text:p></text:section>'
        for n, target in enumerate(targets)
    )
    inline = frames(("image", "object", "floating-frame"), targets)
    return open_document(path, "text", f"<text:p>seen {inline}</text:p>{sections}")


def odp(path: Path, targets: Targets) -> Path:
    page = f"<draw:page>{frames(('image', 'object'), targets)}</draw:page>"
    return open_document(path, "presentation", page)


def ods(path: Path, targets: Targets) -> Path:
    rows = "".join(
        "<table:table-row><table:table-cell table:formula=\"of:='"
        f"{target}'#$Sheet1.A1\"/><table:table-cell "
        f"table:formula='of:=WEBSERVICE(&quot;{target}&quot;)'/></table:table-row>"
        for target in targets
    )
    linked = "".join(
        f'<table:table table:name="t{n}"><table:table-source xlink:type="simple" xlink:href='
        f'"{target}" table:mode="copy-all"/><table:table-row><table:table-cell office:value-type='
        '"string"><text:p>was here</text:p></table:table-cell></table:table-row></table:table>'
        for n, target in enumerate(targets)
    )
    cell = '<table:table-cell office:value-type="string"><text:p>seen</text:p></table:table-cell>'
    first = f'<table:table table:name="a"><table:table-row>{cell}</table:table-row>{rows}'
    return open_document(path, "spreadsheet", f"{first}</table:table>{linked}")


@dataclass(frozen=True)
class Secret:
    """Files that are none of a document's business."""

    picture: Path
    text: Path


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Secret:
    folder = tmp_path_factory.mktemp("secret")
    Image.new("RGB", (400, 100), "red").save(folder / "picture.png")
    (folder / "text.txt").write_text(f"{SECRET}\n" * 3)
    return Secret(folder / "picture.png", folder / "text.txt")


def pages_of(
    path: Path, settings: IngestSettings = SETTINGS
) -> list[tuple[str, tuple[str, ...], bool]]:
    """The rendered hash of each page, its words, and whether something red is on it."""
    target = path.with_suffix(".pdf")
    convert(path, target, settings)
    with PdfReader(settings) as reader:
        found = list(reader.pages(target, range(reader.open(target).pages)))
    pages: list[tuple[str, tuple[str, ...], bool]] = []
    for page in found:
        assert isinstance(page, RawPage)
        with Image.open(io.BytesIO(page.image)) as image:
            colours = image.convert("RGB").getcolors(2**24) or []
        red = any(isinstance(c, tuple) and c[0] > 200 and c[1] < 60 for _, c in colours)
        pages.append((page.render_hash, tuple(word.text for word in page.words), red))
    return pages


@needs_libreoffice
@pytest.mark.skipif(confinement() is None, reason="nothing here confines a program")
@pytest.mark.parametrize(
    "make", [rtf, odt, odp, ods, docx_links, xlsx_links], ids=lambda make: make.__name__
)
def test_a_document_pulls_in_no_file_and_does_not_tell_whether_it_is_there(
    secret: Secret, tmp_path: Path, make: Callable[[Path, Targets], Path]
) -> None:
    there = [
        shutil.copy(path, tmp_path / f"private{path.suffix}")
        for path in (secret.picture, secret.text)
    ]
    paths = [*map(Path, there), Path("/etc/passwd")]
    links = [*map(str, paths), *(path.as_uri() for path in paths)]
    document = make(tmp_path / f"file.{make.__name__.partition('_')[0]}", links)
    pages = pages_of(document)
    words = " ".join(word for _, words, _ in pages for word in words)
    assert not any(red for _, _, red in pages)
    assert "SECRETWORDS" not in words
    assert "root:" not in words
    # The same document, once the files are gone.
    for path in there:
        Path(path).unlink()
    assert pages_of(document) == pages


@needs_libreoffice
def test_without_confinement_a_document_pulls_in_a_picture(secret: Secret, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    path = rtf(tmp_path / "file.rtf", [str(secret.picture)])
    loose = SETTINGS.model_copy(update={"confine_office": False})
    assert any(red for _, _, red in pages_of(path, loose))


@needs_libreoffice
def test_where_nothing_confines_office_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = docx(tmp_path / "file.docx")
    monkeypatch.setattr(office, "confinement", lambda: None)  # an older kernel's answer
    with pytest.raises(FormatUnsupported, match=r"Landlock.*ingest\.confine_office"):
        convert(path, tmp_path / "file.pdf", SETTINGS)
    convert(path, tmp_path / "file.pdf", SETTINGS.model_copy(update={"confine_office": False}))


@needs_libreoffice
@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_bubblewrap_stands_in_for_landlock(
    secret: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "supported", lambda: 0)  # an older kernel's answer
    if confinement() is None:
        pytest.skip("bubblewrap does not work here")
    pages = pages_of(rtf(tmp_path / "file.rtf", [str(secret.picture)]))
    assert "seen" in pages[0][1]
    assert not any(red for _, _, red in pages)


def test_a_script_that_starts_libreoffice_opens_no_folder(tmp_path: Path) -> None:
    """Else one in ~/bin would open all that is at home."""
    script = tmp_path / "home" / "bin" / "soffice"
    script.parent.mkdir(parents=True)
    script.touch()
    allowed = [Path(path) for path in office._needed_by(str(script))]
    assert script in allowed
    assert not any(path in (*script.parents, tmp_path / "home" / "x") for path in allowed)
    program = tmp_path / "libreoffice" / "program" / "soffice"
    program.parent.mkdir(parents=True)
    program.touch()
    (program.parent / "soffice.bin").touch()
    assert str(tmp_path / "libreoffice") in office._needed_by(str(program))

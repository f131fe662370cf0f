"""The command line. Heavy imports happen inside the commands, so that --help is instant."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast, get_args

import typer
from typer.core import TyperGroup

from api import completion, printing
from pageglass import __version__
from pageglass.errors import DocumentNotFound, PageglassError, UsageError
from pageglass.private import UMASK
from pageglass.text import one_line
from pageglass.types import DEFAULT_COLLECTION, Document, JobState, PageRef

if TYPE_CHECKING:
    from api.backend import Backend, Onlooker, Server
    from api.keys import Key
    from api.services import FileReport
    from ingest.sources import SourceRegistry
    from ingest.watch import LeftOut, PlannedAction
    from pageglass.settings import Settings
    from pageglass.types import Answer, SearchResult

STOPPED = "stopped; run the same command again to go on"


@dataclass
class _Options:
    """The options before the command, and whether a program reads what comes out."""

    data_dir: Path | None
    profile: str | None
    verbose: int
    server: Server | None = None
    json: bool = False


_MORE_COMMANDS = "pageglass.commands"


class _Commands(TyperGroup):
    """Turns errors into one line and an exit code: 2 for wrong usage, 130 for Ctrl-C, else 1.

    Parts that stand above this one, which it must not import, add commands as entry points of the
    group ``pageglass.commands``.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order of the help."""
        return [*super().list_commands(ctx), *entry_points(group=_MORE_COMMANDS).names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, if there is one."""
        if found := super().get_command(ctx, cmd_name):
            return found
        for more in entry_points(group=_MORE_COMMANDS, name=cmd_name):
            return typer.main.get_command(more.load())
        return None

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PageglassError as error:
            code, message = error.code, error.for_operator
            status = 2 if isinstance(error, UsageError) else 1
        except BrokenPipeError:
            raise  # Whoever read us has enough; typer ends quietly.
        except OSError as error:
            code, message, status = "system", _os_message(error), 1
        except KeyboardInterrupt as stop:
            # A command that keeps nothing, or not all, says so itself.
            code, message, status = "stopped", str(stop) or STOPPED, 130
        options = ctx.obj
        if isinstance(options, _Options) and options.json:
            printing.print_json({"error": {"code": code, "message": one_line(message)}})
        printing.print_error(message)
        raise typer.Exit(status)


app = typer.Typer(
    name="pageglass",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Picture = Annotated[
    Path | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="A picture to search with; its text counts as part of the question.",
    ),
]
models_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Fetch the models that the profile in use needs.\n\n\b\npageglass models pull",
)
app.add_typer(models_app, name="models", short_help="Fetch the models a profile needs.")
keys_app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="API keys of a server."
)
app.add_typer(keys_app, name="keys", short_help="Make, list and end API keys of a server.")

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
CollectionFilter = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        metavar="NAME",
        help="Only this collection; default: all.",
        autocompletion=completion.collections,
    ),
]
IntoCollection = Annotated[
    str,
    typer.Option(
        "--collection",
        "-c",
        metavar="NAME",
        help="The collection they belong to.",
        autocompletion=completion.collections,
    ),
]
Documents = Annotated[
    list[str] | None,
    typer.Option(
        "--document",
        "-d",
        metavar="ID",
        help="Only this document; may be repeated.",
        autocompletion=completion.documents,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k", "-k", min=1, max=100, help="Pages to look at; default: search.top_k (5)."
    ),
]


def main() -> None:
    """The ``pageglass`` command."""
    os.umask(UMASK)
    # A stop by the system ends as a stop by the person does: between two batches of pages.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="pageglass")
    except Exception as error:
        # Nothing we know of; whoever wants to see where it comes from asks for it.
        logging.getLogger(__name__).debug("unexpected", exc_info=error)
        printing.print_error(
            f"unexpected {type(error).__name__}: {error} (pageglass -vv shows where)"
        )
        sys.exit(1)


def _os_message(error: OSError) -> str:
    """What the system refused, and on which file: "no space left on device: /data/x"."""
    reason = (error.strerror or str(error)).lower()
    return f"{reason}: {error.filename}" if error.filename else reason


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise KeyboardInterrupt


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pageglass {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    ctx: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where documents and indexes are kept (PAGEGLASS_DATA_DIR).",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="lite, cpu or gpu: which models search and answer."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings file (PAGEGLASS_CONFIG); default: pageglass.toml here, if there is one.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Go through this server instead (PAGEGLASS_URL); its key is in PAGEGLASS_KEY.",
        ),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log what happens; -vv logs more.",
        ),
    ] = 0,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """A reading glass for document collections: ask a question, get an answer in which every
    claim points at a page you can see.

    \b
    pageglass ingest ~/papers
    pageglass ask "What did the second phase cost?"

    Settings come from flags, then PAGEGLASS_... variables, then pageglass.toml.
    """
    del version
    if server and data_dir is not None:
        raise UsageError("--server has a data folder of its own: leave --data-dir out")
    if data_dir is None:
        server = server or os.environ.get("PAGEGLASS_URL")
    if config is not None:
        # The settings read the file's name from here, whoever sets it.
        os.environ["PAGEGLASS_CONFIG"] = str(config)
    ctx.obj = _Options(data_dir, profile, verbose)
    if server:
        from api.backend import Server

        # Never a flag: whoever uses the machine can read those of others.
        ctx.obj.server = Server(server, os.environ.get("PAGEGLASS_KEY") or None)


@app.command(short_help="Index files and folders of them.")
def ingest(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Files, and folders of them; without any: what is queued already.",
        ),
    ] = None,
    collection: IntoCollection = DEFAULT_COLLECTION,
    as_json: JsonFlag = False,
) -> None:
    """Index files and folders of them, and say what became of every file.

    PDFs, pictures (PNG, JPEG, TIFF, WebP), and office files where LibreOffice is installed. Files
    that are indexed already cost nothing; Ctrl-C loses nothing: run it again to go on. After a
    change of profile or model, run it without a path: what is indexed gets the new vectors.
    Exits 0 when all are indexed, 1 when some failed, 2 on wrong usage.

    \b
    pageglass ingest ~/papers report.pdf --collection work
    """
    settings = begin(ctx, as_json)
    paths = paths or []
    if len(paths) == 1 and not os.path.lexists(paths[0]):
        raise UsageError(f"no such file or folder: {paths[0]}")
    from api.progress import ingest_progress
    from ingest.watch import LeftOut, files_in

    reports: list[FileReport] = []
    left_out = LeftOut()
    with _open(ctx, settings, makes=bool(paths)) as backend:
        # A status is not free: it adds up what the data folder takes on disk.
        files = sum(1 for _ in files_in(paths, left_out=left_out)) if paths else _queued(backend)
        with ingest_progress(files) as progress:
            for report in backend.ingest(paths, collection=collection, progress=progress.moved):
                reports.append(report)
                progress.ended("" if as_json else printing.report_line(report))
    if as_json:
        printing.print_json(
            {"files": [_report_json(report) for report in reports], "left_out": _kinds(left_out)}
        )
    elif not reports:
        nothing = "nothing is queued: name files, or folders of them"
        typer.echo("no files there that can become pages" if paths else nothing, err=True)
    elif len(reports) > 1:
        typer.echo(printing.tally(reports), err=True)
    if left_out and not as_json:
        typer.echo(one_line(f"left out: {left_out}"), err=True)
    if any(report.outcome == "failed" for report in reports):
        raise typer.Exit(1)


@app.command(short_help="Answer a question from the pages and cite them.")
def ask(
    ctx: typer.Context,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="In plain words; may be '' beside a picture.")
    ],
    image: Picture = None,
    collection: CollectionFilter = None,
    document: Documents = None,
    top_k: TopK = None,
    save_pages: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Save an image of every cited page there, the quoted words highlighted.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer from the indexed pages and cite them, or say that they do not answer it.

    \b
    pageglass ask "When does the lease end?" --save-pages cited/
    """
    settings = begin(ctx, as_json)
    with _open(ctx, settings) as backend:
        answer = backend.ask(
            _text(question),
            image=_picture(image),
            collection=collection,
            documents=_resolve(backend, document or [], collection),
            top_k=top_k,
        )
        saved = _save_pages(backend, answer, save_pages) if save_pages is not None else []
    if as_json:
        from pageglass.wire import AnswerModel

        body = AnswerModel.of(answer).model_dump(mode="json", exclude_none=True)
        if save_pages is not None:
            body["saved_pages"] = [str(path) for path in saved]
        printing.print_json(body)
        return
    printing.print_answer(answer)
    for path in saved:
        typer.echo(f"saved {path}", err=True)


@app.command(short_help="Find the pages that match a question.")
def search(
    ctx: typer.Context,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="In plain words; may be '' beside a picture.")
    ],
    image: Picture = None,
    collection: CollectionFilter = None,
    document: Documents = None,
    top_k: TopK = None,
    save_heatmaps: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Save an image of every page there, what answers the question glowing.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the pages that match a question best, and say why each was found.

    \b
    pageglass search "torque of the cover bolts" --top-k 3 --json
    """
    settings = begin(ctx, as_json)
    if save_heatmaps is not None and not question.strip():
        raise UsageError("--save-heatmaps shows what answers a question: give one")
    with _open(ctx, settings) as backend:
        found = backend.search(
            _text(question),
            image=_picture(image),
            collection=collection,
            documents=_resolve(backend, document or [], collection),
            top_k=top_k,
        )
        if not as_json:
            printing.print_transcription(found.transcription)
            printing.print_hits(found.hits)
            printing.print_notes(found.notes)
        saved: list[Path] = []
        if save_heatmaps is not None:
            saved = _save_heat_maps(backend, _text(question), found, save_heatmaps)
    if as_json:
        from pageglass.wire import SearchResponse

        body = SearchResponse.of(found).model_dump(mode="json", exclude_none=True)
        if save_heatmaps is not None:
            body["saved_heatmaps"] = [str(path) for path in saved]
        printing.print_json(body)
    elif not found.hits:
        typer.echo("no pages found")
    for path in [] if as_json else saved:
        typer.echo(f"saved {path}", err=True)


@app.command(short_help="Read values off documents, in the shape of a JSON schema.")
def extract(
    ctx: typer.Context,
    documents: Annotated[
        list[str],
        typer.Argument(
            metavar="DOCUMENT...",
            help="Ids or names, as in status.",
            autocompletion=completion.documents,
        ),
    ],
    schema: Annotated[
        Path, typer.Option(metavar="FILE", help="A JSON schema of what to look for.")
    ],
    pages: Annotated[
        str | None,
        typer.Option(
            metavar="PAGES", help="Only these pages of each document, such as 1-3,7; default: all."
        ),
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What else the model should know."),
    ] = None,
    collection: CollectionFilter = None,
    as_json: JsonFlag = False,
) -> None:
    """Read values off documents, each with the words it rests on, or null where no page says it.

    Needs a model that looks at pages: the profile cpu or gpu, or answer.url.

    \b
    pageglass extract --schema invoice.json invoice-0815.pdf --json
    """
    settings = begin(ctx, as_json)
    wanted = _schema(schema)
    numbers = _page_numbers(pages) if pages is not None else []
    with _open(ctx, settings) as backend:
        ids = _resolve(backend, documents, collection)
        found = backend.extract(
            wanted,
            documents=[] if numbers else ids,
            pages=[PageRef(id, number - 1) for id in ids for number in numbers],
            instructions=_text(instructions) if instructions is not None else None,
        )
    if as_json:
        from pageglass.wire import ExtractResponse

        printing.print_json(ExtractResponse.of(found).model_dump(mode="json"))
    else:
        printing.print_extraction(found)


@app.command(short_help="Show what the data folder holds.")
def status(
    ctx: typer.Context,
    collection: CollectionFilter = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the work under way until Ctrl-C.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what the data folder holds, and every document with its id and state.

    It only looks: whoever uses the folder goes on.

    \b
    pageglass status --follow
    """
    settings = begin(ctx, as_json)
    _check_follow(follow, as_json)
    with _look(ctx, settings) as onlooker:
        if follow:
            _follow(onlooker)
            return
        held, left = onlooker.status(), onlooker.seconds_left()
        documents = onlooker.documents(collection=collection)
        server = getattr(onlooker, "address", None)
    if as_json:
        from dataclasses import asdict

        from pageglass.wire import DocumentModel

        listed = [DocumentModel.of(one).model_dump(mode="json") for one in documents]
        printing.print_json(
            {
                "status": asdict(held),
                "seconds_left": left,
                "server": server,
                "documents": listed,
            }
        )
    else:
        printing.print_status(held, documents, server, left)


@app.command(short_help="Show the work under way, and what failed.")
def jobs(
    ctx: typer.Context,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE",
            help="Only queued, running, done, dead or cancelled jobs; may be repeated.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown at most.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the work until Ctrl-C.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the work on documents: running and queued, or in the states you name.

    Dead jobs are those that were given up, with the reason; `pageglass retry` tries them again.

    \b
    pageglass jobs --state dead
    """
    settings = begin(ctx, as_json)
    _check_follow(follow, as_json)
    states = _states(state or (["queued", "running"] if not as_json else []))
    with _look(ctx, settings) as onlooker:
        if follow:
            _follow(onlooker)
            return
        found = onlooker.job_list(states, limit=limit)
        counts, left = onlooker.job_counts(), onlooker.seconds_left()
    if as_json:
        from pageglass.wire import JobList, JobModel

        listed = JobList(jobs=[JobModel.of(job) for job in found], counts=counts, seconds_left=left)
        printing.print_json(listed.model_dump(mode="json"))
    else:
        printing.print_jobs(found, counts, left)


@app.command(short_help="Try failed or cancelled documents again.")
def retry(
    ctx: typer.Context,
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|NAME]...", help="As in status.", autocompletion=completion.documents
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    collection: CollectionFilter = None,
    as_json: JsonFlag = False,
) -> None:
    """Queue documents again that failed, in part or whole, or were cancelled.

    A running server goes on with them by itself, else `pageglass ingest` does.

    \b
    pageglass retry report.pdf
    """
    settings = begin(ctx, as_json)
    if bool(documents) == every:
        raise UsageError("name the documents, or say --all")
    with _open(ctx, settings) as backend:
        if every:
            number = backend.retry_dead()
        else:
            ids = _resolve(backend, documents or [], collection)
            for id in ids:
                backend.retry(id)
            number = len(ids)
    if as_json:
        printing.print_json({"retried": number})
    else:
        typer.echo(f"queued again: {number}")


@app.command(short_help="Stop work on documents.")
def cancel(
    ctx: typer.Context,
    documents: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|NAME", help="As in status.", autocompletion=completion.documents
        ),
    ],
    collection: CollectionFilter = None,
    as_json: JsonFlag = False,
) -> None:
    """Take documents out of the queue, or stop the work on them. Pages indexed so far stay.

    \b
    pageglass cancel huge.pdf
    """
    settings = begin(ctx, as_json)
    with _open(ctx, settings) as backend:
        ids = _resolve(backend, documents, collection)
        for id in ids:
            backend.cancel(id)
    if as_json:
        printing.print_json({"cancelled": ids})
    else:
        typer.echo(f"cancelled: {len(ids)}")


@app.command(short_help="Decide about documents whose files are gone.")
def deletions(
    ctx: typer.Context,
    remove: Annotated[bool, typer.Option("--remove", help="Remove these documents.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep them, for good.")] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only files below this folder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show removals that are held back, since many files of a watched folder were gone at once.

    \b
    pageglass deletions --keep
    """
    settings = begin(ctx, as_json)
    from ingest.sources import as_text

    if remove and keep:
        raise UsageError("say --remove or --keep, not both")
    # Watched files are known by their whole path; that of a folder which is gone can be told, too.
    server: Server | None = ctx.obj.server
    below = as_text(folder.resolve()) if folder is not None else None
    if below is not None and server is not None:
        below = server.machine + below
    if remove or keep:
        with _open(ctx, settings) as backend:
            number = backend.settle_held(remove=remove, folder=below)
        word = "removed" if remove else "kept"
        if as_json:
            printing.print_json({word: number})
        else:
            typer.echo(f"{word}: {number}")
        return
    with _look(ctx, settings) as onlooker:
        held = [h for h in onlooker.held() if below is None or h.path.startswith(f"{below}/")]
    if as_json:
        from pageglass.wire import DeletionModel

        listed = [DeletionModel.of(one).model_dump(mode="json") for one in held]
        printing.print_json({"deletions": listed})
        return
    for one in held:
        typer.echo(one_line(f"held {one.collection}: {one.path}"))
    if held:
        typer.echo("say --remove to remove these documents, or --keep to keep them", err=True)
    else:
        typer.echo("nothing is held back", err=True)


@app.command(short_help="Compare catalog, files and vectors.")
def check(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Set right what can be.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file, too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare catalog, page images, files and vectors with each other.

    Exits 0 when all matches or was repaired, else 1.

    \b
    pageglass check --repair
    """
    settings = begin(ctx, as_json)
    from dataclasses import asdict

    with _open(ctx, settings) as backend:
        findings = backend.check(repair=repair, deep=deep)
    if as_json:
        printing.print_json({"findings": [asdict(finding) for finding in findings]})
    for finding in [] if as_json else findings:
        mark = "repaired" if finding.repaired else "PROBLEM "
        advice = f" -> {finding.advice}" if finding.advice else ""
        typer.echo(one_line(f"{mark}  {finding.what}{advice}"))
    if not findings and not as_json:
        typer.echo("all matches")
    if any(not finding.repaired for finding in findings):
        if not repair and not as_json:
            typer.echo("`pageglass check --repair` sets right what can be", err=True)
        raise typer.Exit(1)


@app.command(short_help="Copy the data folder while it is in use.")
def backup(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Must not exist yet.")],
    as_json: JsonFlag = False,
) -> None:
    """Copy the data folder, as it is at one moment, into a new one.

    The copy is a data folder of its own: use it with --data-dir. Files that never change are
    linked where that can be, so it takes little room on the same disk.

    \b
    pageglass backup /backups/monday
    """
    settings = begin(ctx, as_json, here=True)
    from dataclasses import asdict

    with _open(ctx, settings) as backend:
        report = backend.backup(folder)
    if as_json:
        printing.print_json(asdict(report))
        return
    typer.echo(one_line(f"{report.folder}: {report.files:,} files"))
    if not report.vectors:
        typer.echo("the vectors are on the Qdrant server: back that up, too", err=True)


@app.command("rm", short_help="Remove documents from the data folder.")
def remove(
    ctx: typer.Context,
    documents: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|NAME",
            help="Ids or file names, as in status.",
            autocompletion=completion.documents,
        ),
    ],
    collection: CollectionFilter = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove every trace of documents from the data folder. Your own files stay; those in watched
    folders are not taken again until they change, or `pageglass ingest FILE` adds them.

    \b
    pageglass rm report.pdf
    """
    settings = begin(ctx, as_json)
    outcomes: list[dict[str, str]] = []
    with _open(ctx, settings) as backend:
        for wanted in documents:
            try:
                id = _resolve(backend, [wanted], collection)[0]
                backend.remove(id)
            except UsageError as error:
                if len(documents) == 1:
                    raise
                outcomes.append(
                    {"document": wanted, "outcome": "failed", "reason": error.for_operator}
                )
                if not as_json:
                    printing.print_error(error.for_operator)
            else:
                outcomes.append({"document": wanted, "outcome": "removed", "id": id})
                if not as_json:
                    typer.echo(one_line(f"removed    {wanted}"))
    if as_json:
        printing.print_json({"documents": outcomes})
    if any(outcome["outcome"] == "failed" for outcome in outcomes):
        raise typer.Exit(1)


ByFolder = Annotated[
    bool, typer.Option("--by-folder", help="Each sub-folder is a collection of its own.")
]
Poll = Annotated[
    bool, typer.Option("--poll", help="Look at intervals: for folders that give no events.")
]


@app.command(short_help="Keep folders indexed until Ctrl-C.")
def watch(
    ctx: typer.Context,
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Made if missing.")],
    collection: IntoCollection = DEFAULT_COLLECTION,
    by_folder: ByFolder = False,
    poll: Poll = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done now, and end.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Keep folders indexed until Ctrl-C, and say what became of every file.

    New and changed files are taken once they stand still, renamed ones keep their pages, and
    documents whose files are gone are removed after a while; if many are gone at once,
    `pageglass deletions` asks first.

    \b
    pageglass watch ~/inbox
    """
    settings = begin(ctx, as_json, watch=_watch_flags(by_folder, poll))
    if dry_run:
        _print_plan(ctx, settings, folders, collection, as_json)
        return
    if as_json:
        raise UsageError("--json goes with --dry-run")
    _make_folders(folders)
    try:
        with _open(ctx, settings, makes=True) as backend:
            typer.echo(f"watching {', '.join(map(str, folders))} (Ctrl-C ends it)", err=True)
            _watch(ctx, backend, settings, folders, collection)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


@app.command(short_help="Answer over HTTP until Ctrl-C.")
def serve(
    ctx: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: server.host (127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 picks a free one; default: server.port (8321)."
        ),
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Keep this folder indexed; may be repeated."),
    ] = None,
    by_folder: ByFolder = False,
    poll: Poll = False,
) -> None:
    """Answer over HTTP until Ctrl-C; meanwhile other commands go through this server.

    \b
    pageglass serve --watch ~/inbox
    """
    flags = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    sections = {"server": flags, "watch": _watch_flags(by_folder, poll)}
    settings = begin(ctx, as_json=False, here=True, **sections)
    _make_folders(watch or [])
    from api.serving import serve as serve_until_stopped

    try:
        serve_until_stopped(
            settings,
            folders=watch or [],
            listening=lambda address: _say_who_may_ask(settings, address),
            progress=_say_what_became,
            told=_say_what_was_done,
        )
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


@app.command(short_help="Offer search, answers and pages to language models.")
def mcp(ctx: typer.Context) -> None:
    """Offer the tools search, ask and get_page over the Model Context Protocol, on standard input
    and output: desktop assistants and agents start this command by themselves.

    While a server owns the data folder this goes through it; otherwise no other command can use
    the folder until this one ends. Needs the extra `mcp`.

    \b
    pageglass mcp
    """
    settings = begin(ctx, as_json=False)
    from api.mcp import serve as serve_tools

    try:
        with _open(ctx, settings) as backend:
            serve_tools(backend)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


@keys_app.command("add", short_help="Make a key.")
def keys_add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what it is for, to know it by.")],
    scope: Annotated[
        list[str],
        typer.Option(help="search, ask (and search), ingest or admin; may be repeated."),
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option(
            help="It sees this collection only; may be repeated; default: all.",
            autocompletion=completion.collections,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages of this site only may use it; may be repeated."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.0, help="How long it is good for; default: for ever.")
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Requests a minute; default: server.requests_per_minute."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key and print it, this once: only a hash of it is kept.

    A server that runs knows it at once. One for a web page belongs to the scope search or ask, a
    collection and the page's site: everybody who sees the page can read it.

    \b
    pageglass keys add intranet --scope ask --collection manuals --origin https://intranet.example
    """
    settings = begin(ctx, as_json, here=True)
    from api.keys import open_keys
    from api.looking import Looking

    with open_keys(settings.data_dir) as keys:
        key, text = keys.add(
            name,
            scope,
            collections=collection or None,
            origins=origin or (),
            requests_per_minute=per_minute,
            seconds=None if days is None else days * 86400,
        )
    _print_key(key, text, as_json)
    with Looking(settings, may_be_new=True) as folder:
        known = {DEFAULT_COLLECTION, *folder.collections()}
    for missing in sorted(set(collection or ()) - known):
        printing.print_error(
            f"warning: nothing is in the collection {missing} yet; there are"
            f" {', '.join(sorted(known))}"
        )


@keys_app.command("list", short_help="List the keys.")
def keys_list(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the API keys, with what they may do and when they were last used.

    \b
    pageglass keys list
    """
    settings = begin(ctx, as_json, here=True)
    from api.keys import open_keys
    from api.owner import require_data_folder

    require_data_folder(settings.data_dir)
    with open_keys(settings.data_dir) as keys:
        found = keys.list()
    if as_json:
        printing.print_json({"keys": [key.described() for key in found]})
    else:
        printing.print_keys(found)


@keys_app.command("rotate", short_help="Make a key with the rights of another.")
def keys_rotate(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The id of the key that is to end.")],
    keep_hours: Annotated[
        float, typer.Option(min=0.0, help="How long the old one stays good beside the new one.")
    ] = 24.0,
    as_json: JsonFlag = False,
) -> None:
    """Make a key with the same rights, and end the old one a little later.

    \b
    pageglass keys rotate 5f2c09d1a7b3 --keep-hours 48
    """
    settings = begin(ctx, as_json, here=True)
    from api.keys import open_keys
    from api.owner import require_data_folder

    require_data_folder(settings.data_dir)
    with open_keys(settings.data_dir) as keys:
        new, text = keys.rotate(key, keep_seconds=keep_hours * 3600)
    _print_key(new, text, as_json)


@keys_app.command("revoke", short_help="End a key at once.")
def keys_revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The id of the key, or the key itself.")],
    as_json: JsonFlag = False,
) -> None:
    """End an API key at once, also for a server that runs.

    \b
    pageglass keys revoke 5f2c09d1a7b3
    """
    settings = begin(ctx, as_json, here=True)
    from api.keys import open_keys
    from api.owner import require_data_folder

    require_data_folder(settings.data_dir)
    with open_keys(settings.data_dir) as keys:
        ended = keys.revoke(key)
    if as_json:
        printing.print_json(ended.described())
    else:
        typer.echo(f"revoked {ended.id} ({ended.name})")


@models_app.command("pull", short_help="Fetch them, so that nothing is fetched later.")
def models_pull(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Fetch the checkpoints of the profile and settings in use, base models of adapters included.

    What is there already is only compared with the hub. Afterwards the profile works without a
    network (setting models.offline).

    \b
    pageglass --profile gpu models pull
    """
    settings = begin(ctx, as_json, here=True)
    from api.models import pull

    pulled: list[dict[str, Any]] = []
    for one in pull(settings):
        pulled.append({**one.checkpoint.manifest(), "used_for": one.used_for, "bytes": one.size})
        if not as_json:
            what = f"{one.checkpoint.name}@{one.checkpoint.revision[:12]}"
            typer.echo(f"{one.used_for:9} {what}, {printing.megabytes(one.size)}")
    if as_json:
        printing.print_json({"models": pulled})
    elif not pulled:
        typer.echo(f"the profile {settings.profile} needs no models beyond those installed")


@app.command(short_help="What looking at pages costs, in tokens.")
def cost(
    ctx: typer.Context,
    pages: Annotated[int, typer.Option(min=1, help="Pages shown to the model in all.")],
    model: Annotated[str, typer.Option(help="The model's name, such as gpt-4o.")],
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Pixels of a page image; A4 at 150 DPI.")
    ] = "1240x1754",
    text_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens read beside each image: its text, the prompt.")
    ] = 0,
    output_tokens: Annotated[int, typer.Option(min=0, help="Tokens written for each page.")] = 0,
    input_price: Annotated[
        float | None, typer.Option(min=0, help="Price of a million input tokens.")
    ] = None,
    output_price: Annotated[
        float | None, typer.Option(min=0, help="Price of a million output tokens.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what showing pages to a model costs in tokens, by its maker's published formula.

    \b
    pageglass cost --pages 5000 --model gpt-4o --input-price 2.5
    """
    begin(ctx, as_json)
    from dataclasses import asdict

    from retrieval.costs import estimate

    width, height = _pixels(size)
    estimated = estimate(
        model,
        pages,
        width=width,
        height=height,
        text_tokens=text_tokens,
        output_tokens=output_tokens,
        price_per_million_input=input_price,
        price_per_million_output=output_price,
    )
    if as_json:
        printing.print_json(asdict(estimated))
    else:
        printing.print_cost(estimated)


@app.command("copy", short_help="Copy the vectors to a Qdrant server.")
def copy_index(
    ctx: typer.Context,
    to: Annotated[
        str, typer.Option(metavar="URL", help="The Qdrant server; index.api_key is its key.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Copy the data folder's vectors to a Qdrant server; nothing is encoded again.

    Run it again to go on after an interruption. Afterwards set index.url to use the server. No
    other command may use the data folder meanwhile.

    \b
    pageglass copy --to http://localhost:6333
    """
    settings = begin(ctx, as_json, here=True)
    from api.models import copy_to_server

    copied: dict[str, int] = {}

    def moved(written: int, total: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{written:,} of {total:,} pages", nl=False, err=True)

    for name, points in copy_to_server(settings, to, progress=moved):
        copied[name] = points
        if not as_json:
            typer.echo(f"{points:>9,} pages of {name}")
    if as_json:
        printing.print_json({"copied": copied, "to": to})
    else:
        folder = settings.data_dir / "index"
        typer.echo(f"now set index.url to {to}; {folder} is not needed any more", err=True)


@app.command(short_help="Check installation, models and data folder.")
def doctor(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Check the installation, the models and the data folder, and say what helps.

    \b
    pageglass doctor
    """
    settings = begin(ctx, as_json, here=True)
    from dataclasses import asdict

    from api.doctor import Check, check_all

    checks: list[Check] = []
    for check in check_all(settings):
        checks.append(check)
        if as_json:
            continue
        mark = {True: "ok     ", False: "PROBLEM", None: "skipped"}[check.ok]
        typer.echo(f"{mark}  {check.name}: {one_line(check.found)}")
        if check.advice:
            typer.echo(f"         -> {one_line(check.advice)}")
    ok = all(check.ok for check in checks)
    if as_json:
        printing.print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    if not ok:
        raise typer.Exit(1)


def begin(
    ctx: typer.Context, as_json: bool, *, here: bool = False, **sections: dict[str, Any]
) -> Settings:
    """Note who reads, load the settings and set up logging; SettingsError. ``sections`` are what
    the command's flags set. UsageError where the command works ``here`` and a server is named."""
    from pageglass.logs import set_up_logging
    from pageglass.settings import load_settings

    options: _Options = ctx.obj
    options.json = as_json
    if here and options.server is not None:
        raise UsageError(
            f"`{ctx.command_path}` works on the data folder itself: run it where the server runs,"
            " without --server and PAGEGLASS_URL"
        )
    flags: dict[str, Any] = {}
    if options.data_dir is not None:
        flags["data_dir"] = options.data_dir
    if options.profile is not None:
        flags["profile"] = options.profile
    if options.verbose:
        flags["log_level"] = "INFO" if options.verbose == 1 else "DEBUG"
    flags |= {name: section for name, section in sections.items() if section}
    settings = load_settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    return settings


def _say_who_may_ask(settings: Settings, address: str) -> None:
    """Where the server is, and what stands between it and everybody."""
    from api.keys import open_keys
    from pageglass.settings import LOOPBACK

    typer.echo(f"Pageglass listens at {address} (Ctrl-C ends it)")
    if settings.server.keys_needed:
        with open_keys(settings.data_dir) as keys:
            if not any(keys.holds(key.id) for key in keys.list()):
                hint = "`pageglass keys add NAME --scope admin` makes the first"
                typer.echo(f"it needs API keys and there is none yet: {hint}", err=True)
    elif settings.server.host not in LOOPBACK:
        danger = "whoever reaches it can read and remove everything"
        typer.echo(f"it needs no API key (setting server.keys): {danger}", err=True)


def _print_key(key: Key, text: str, as_json: bool) -> None:
    if as_json:
        printing.print_json({**key.described(), "key": text})
        return
    typer.echo(text)
    typer.echo(f"this is told once; its id is {key.id} (`pageglass keys list`)", err=True)


def _open(ctx: typer.Context, settings: Settings, *, makes: bool = False) -> Backend:
    """NoDataFolder unless the command ``makes`` one."""
    from api.backend import open_backend

    return open_backend(settings, command=ctx.info_name or "", server=ctx.obj.server, makes=makes)


def _look(ctx: typer.Context, settings: Settings) -> Onlooker:
    from api.backend import look

    return look(settings, ctx.obj.server)


def _queued(backend: Backend) -> int:
    return backend.status().jobs.get("queued", 0)


def _pixels(size: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", size.lower())):
        raise UsageError(f"--size must be WIDTHxHEIGHT in pixels, such as 1240x1754, not {size!r}")
    return int(found[1]), int(found[2])


def _text(argument: str) -> str:
    """An argument as text: what was no UTF-8 is replaced."""
    return argument.encode("utf-8", "replace").decode()


def _resolve(backend: Backend, wanted: Sequence[str], collection: str | None) -> list[str]:
    """Document ids for ids or names; DocumentNotFound, UsageError where a name means several."""
    if not wanted:
        return []
    documents = backend.documents(collection=collection)
    return [_resolve_one(documents, one) for one in wanted]


def _resolve_one(documents: Sequence[Document], wanted: str) -> str:
    if any(document.id == wanted for document in documents):
        return wanted
    named = [one for one in documents if wanted == one.name or wanted in one.names]
    if not named:
        raise DocumentNotFound(f"no document {wanted[:200]!r}: `pageglass status` lists them")
    if len(named) > 1:
        ids = ", ".join(f"{document.id} ({document.collection})" for document in named)
        raise UsageError(f"{len(named)} documents are named {wanted!r}: give an id: {ids}")
    return named[0].id


def _picture(path: Path | None) -> bytes | None:
    """The picture's bytes; UsageError where the file cannot be read."""
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:
        raise UsageError(f"cannot read the picture: {_os_message(error)}") from None


def _schema(path: Path) -> dict[str, Any]:
    """The JSON schema in a file; UsageError where there is none."""
    try:
        schema = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the schema: {_os_message(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UsageError(f"{path} is no JSON schema: it must be an object")
    return schema


def _page_numbers(pages: str) -> list[int]:
    """The numbers that ``1-3,7`` names."""
    numbers: dict[int, None] = {}
    for part in pages.split(","):
        span = re.fullmatch(r"\s*([1-9]\d{0,5})(?:\s*-\s*([1-9]\d{0,5}))?\s*", part, re.ASCII)
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise UsageError(f"--pages must be page numbers such as 1-3,7, not {pages[:80]!r}")
        numbers |= dict.fromkeys(range(int(span[1]), int(span[2] or span[1]) + 1))
    return list(numbers)


def _save_heat_maps(
    backend: Backend, question: str, found: SearchResult, folder: Path
) -> list[Path]:
    """Write one heat-map a hit; UsageError where the folder refuses, NotInProfile."""
    saved: list[Path] = []
    try:
        for number, hit in enumerate(found.hits, start=1):
            image = backend.heat_map(hit.ref.document_id, hit.ref.number, question)
            folder.mkdir(parents=True, exist_ok=True)
            path = printing.page_file(folder, number, hit.document_name, hit.ref.number)
            path.write_bytes(image)
            saved.append(path)
    except OSError as error:
        raise UsageError(f"cannot save heat-maps in {folder}: {_os_message(error)}") from None
    return saved


def _save_pages(backend: Backend, answer: Answer, folder: Path) -> list[Path]:
    """Write one highlighted page image a citation; UsageError where the folder refuses."""
    from api.highlight import highlight

    saved: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, citation in enumerate(answer.citations, start=1):
            page = backend.page(citation.ref.document_id, citation.ref.number)
            path = printing.page_file(folder, number, citation.document_name, citation.ref.number)
            path.write_bytes(highlight(backend.page_image(page), citation.boxes))
            saved.append(path)
    except OSError as error:
        raise UsageError(f"cannot save pages in {folder}: {_os_message(error)}") from None
    return saved


def _watch_flags(by_folder: bool, poll: bool) -> dict[str, Any]:
    return ({"by_folder": True} if by_folder else {}) | ({"polling": "always"} if poll else {})


def _watch(
    ctx: typer.Context,
    backend: Backend,
    settings: Settings,
    folders: list[Path],
    collection: str,
) -> None:
    """Watch until interrupted: in this process where it owns the folder, else for a server."""
    from api.services import Services

    if isinstance(backend, Services):
        backend.start_worker(progress=_say_what_became)
        backend.watch(folders, collection=collection, told=_say_what_was_done)
        signal.pause()
        return
    from api.remote_registry import RemoteRegistry
    from ingest.watch import Watcher

    registry = RemoteRegistry(ctx.obj.server or settings.data_dir)
    if ctx.obj.server is not None:
        # A wrong address or key is said at once; what goes wrong later passes.
        registry.sources("")
    Watcher(
        folders,
        registry=registry,
        collection=collection,
        settings=settings.watch,
        told=_print_action,
    ).forever()


def _print_plan(
    ctx: typer.Context, settings: Settings, folders: list[Path], collection: str, as_json: bool
) -> None:
    """What watching would do now."""
    from dataclasses import asdict

    from api.looking import Looking
    from api.remote_registry import RemoteRegistry
    from ingest.watch import Watcher

    with Looking(settings, may_be_new=True) as looking:
        server: Server | None = ctx.obj.server
        # A plan asks for the known sources and nothing else, which a folder to look at can tell.
        here = cast("SourceRegistry", looking)
        registry = here if server is None else RemoteRegistry(server)
        watcher = Watcher(
            folders, registry=registry, collection=collection, settings=settings.watch
        )
        plan = watcher.plan()
    if as_json:
        left_out = _kinds(watcher.left_out)
        printing.print_json({"plan": [asdict(action) for action in plan], "left_out": left_out})
        return
    for action in plan:
        _print_action(action)
    if not plan:
        typer.echo("nothing is to be done", err=True)
    if watcher.left_out:
        typer.echo(one_line(f"left out: {watcher.left_out}"), err=True)


def _kinds(left_out: LeftOut) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "reason": why, "count": number}
        for (why, kind), number in left_out.most_common()
    ]


def _print_action(action: PlannedAction) -> None:
    reason = f" ({action.reason})" if action.reason else ""
    typer.echo(f"{action.action:<8}  {one_line(action.path + reason)}")
    sys.stdout.flush()


def _say_what_was_done(action: PlannedAction) -> None:
    """What becomes of files that are taken is said once they are indexed."""
    if action.action not in ("take", "replace"):
        _print_action(action)


def _states(wanted: Sequence[str]) -> list[JobState]:
    """Job states by name; UsageError."""

    known = get_args(JobState)
    for name in wanted:
        if name not in known:
            raise UsageError(f"no job state {name[:40]!r}: there are {', '.join(known)}")
    return cast("list[JobState]", list(wanted))


def _check_follow(follow: bool, as_json: bool) -> None:
    if follow and as_json:
        raise UsageError("--json prints one document and --follow never ends: leave one out")


def _follow(onlooker: Onlooker) -> None:
    """Show the work under way until Ctrl-C."""
    from api.progress import follow_jobs

    try:
        follow_jobs(onlooker)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


def _make_folders(folders: Sequence[Path]) -> None:
    """Make the folders to watch; UsageError where one cannot be."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot watch {folder}: {_os_message(error)}") from None


def _say_what_became(document: Document) -> None:
    if document.state in ("indexed", "failed"):
        typer.echo(printing.document_line(document))
        sys.stdout.flush()


def _report_json(report: FileReport) -> dict[str, Any]:
    from pageglass.wire import DocumentModel

    document = report.document
    return {
        "path": report.path,
        "outcome": report.outcome,
        "reason": report.reason,
        "document": DocumentModel.of(document).model_dump(mode="json") if document else None,
    }


if __name__ == "__main__":
    main()

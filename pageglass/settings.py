"""Every option, in one place.

Entry points call ``load_settings`` once and hand narrow sections on. Values come from, strongest
first: flags, environment (``PAGEGLASS_DATA_DIR``, ``PAGEGLASS_SEARCH__TOP_K``), the file
``pageglass.toml`` in the working directory (or the one ``PAGEGLASS_CONFIG`` names), what suits the
profile (pageglass.profiles), the defaults.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableSetting

from pageglass.errors import SettingsError
from pageglass.profiles import PROFILES, ProfileName, RetrieverName


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class LimitSettings(_Section):
    """What one file may cost the process that opens it."""

    file_mb: int = Field(default=1024, ge=1, description="Largest file taken in, in MB.")
    pages: int = Field(default=10_000, ge=1, description="Most pages in a document.")
    pixels: int = Field(
        default=40_000_000,
        ge=10_000,
        description="Most pixels of a page image; larger pages are scaled.",
    )
    memory_mb: int = Field(
        default=2048,
        ge=256,
        description="Memory a file may take in the process that opens it, in MB.",
    )
    page_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Wall clock and CPU time a single page may take, in seconds.",
    )
    words: int = Field(default=20_000, ge=100, description="Most words kept of a page.")
    output_mb: int = Field(
        default=8192,
        ge=1,
        description="Most page images and words that may come of one document, in MB.",
    )
    convert_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Time LibreOffice may take for one office file, in seconds.",
    )


class IngestSettings(_Section):
    """From files to pages."""

    dpi: int = Field(default=150, ge=36, le=600, description="Resolution of page images.")
    jpeg_quality: int = Field(default=85, ge=30, le=100, description="JPEG quality of page images.")
    ocr: bool = Field(default=True, description="Read pages without a text layer by OCR.")
    ocr_below_characters: int = Field(
        default=50, ge=0, description="A page whose text layer is shorter than this goes to OCR."
    )
    batch_pages: int = Field(
        default=16, ge=1, le=256, description="Pages encoded and stored at a time."
    )
    office: bool = Field(
        default=True,
        description="Turn office files into pages with LibreOffice, where it is installed.",
    )
    confine_office: bool = Field(
        default=True,
        description="LibreOffice sees only the file it converts; where the system cannot do that,"
        " office files are refused. Off: at your own risk, a file may pull others into its pages.",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Processes that read and encode pages, 0 for none beside the main one; default:"
        " one a core, at most 4 (lite), or 0.",
    )
    attempts: int = Field(
        default=5,
        ge=1,
        description="Attempts in a row without a new page, after which a document is given up.",
    )
    backoff_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Wait before the second attempt; it doubles from one to the next, up to an"
        " hour.",
    )
    lease_seconds: float = Field(
        default=900.0,
        ge=1,
        description="A worker that gives no sign this long is ended and its work done by another.",
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="Share of the work by collection, where documents of several wait; 1 for"
        " others.",
    )
    reserve_mb: int = Field(
        default=512,
        ge=0,
        description="Disk space that is kept free: below it nothing is taken in or indexed.",
    )
    limits: LimitSettings = LimitSettings()


class ModelSettings(_Section):
    """The checkpoints a profile's models are loaded from, and where they run."""

    visual: str | None = Field(
        default=None,
        description="Page-image model instead of the profile's: hub name, name@revision or folder.",
    )
    image: str | None = Field(
        default=None, description="CLIP model instead of the profile's, likewise."
    )
    text: str | None = Field(
        default=None, description="Text model instead of the profile's, likewise."
    )
    rerank: str | None = Field(
        default=None, description="Reranking model instead of the profile's, likewise."
    )
    answer: str | None = Field(
        default=None,
        description="Answering model instead of the profile's, likewise, or its server's name.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where models run: auto, cpu, mps, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Numbers they compute in; auto is bfloat16 on cuda, else float32.",
    )
    batch_pages: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Pages a model encodes at a time; halved when memory runs out.",
    )
    offline: bool = Field(
        default=False, description="Never ask the model hub; `models pull` fetches beforehand."
    )


class IndexSettings(_Section):
    """Where vectors are kept: in the data folder, or on a Qdrant server."""

    url: str | None = Field(
        default=None, description="Qdrant server (http://host:6333); default: the data folder."
    )
    api_key: SecretStr | None = Field(default=None, description="The Qdrant server's API key.")
    grpc: bool = Field(
        default=False, description="Talk gRPC to the Qdrant server, on the port after index.url's."
    )
    prefix: str = Field(
        default="pageglass-",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="What the names of its collections begin with.",
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, description="How long a request to the Qdrant server may take."
    )
    retries: int = Field(
        default=4,
        ge=0,
        description="Further tries, ever later, of a request that failed in transit.",
    )
    batch_mb: int = Field(
        default=16, ge=1, le=1024, description="Largest request of points, in MB."
    )
    shards: int | None = Field(
        default=None, ge=1, description="Shards of a new collection; default: the server's."
    )
    replicas: int | None = Field(
        default=None, ge=1, description="Copies of each shard of a new collection."
    )
    quantization: Literal["none", "scalar", "binary"] = Field(
        default="none",
        description="Compressed copy of patch vectors that is searched first, then rescored.",
    )
    token_pooling: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Patch vectors merged into one, by likeness; 1 keeps every one.",
    )


class SearchSettings(_Section):
    """From a question to ranked pages."""

    top_k: int = Field(default=5, ge=1, le=100, description="Pages returned by default.")
    candidates: int = Field(
        default=100, ge=1, le=1000, description="Pages each retriever gives into the fusion."
    )
    fusion: Literal["rrf", "minmax", "dbsf"] = Field(
        default="rrf",
        description="How lists are fused: by rank, or by scores scaled by range or distribution;"
        " the profile lite has minmax.",
    )
    rrf_k: int = Field(default=60, ge=1, description="The constant k of reciprocal rank fusion.")
    weights: dict[RetrieverName, float] = Field(
        default_factory=dict,
        description="Fusion weight by retriever, over the profile's own; 0 switches one off.",
    )
    group_duplicates: bool = Field(
        default=True, description="Show one page for pages that look and read alike."
    )
    question_characters: int = Field(
        default=4000, ge=1, description="Longest question accepted, in characters."
    )
    picture_mb: int = Field(
        default=10, ge=1, le=100, description="Largest picture accepted with a question, in MB."
    )


class RerankSettings(_Section):
    """A small vision-language model asked of each page: does it answer the question?"""

    pages: int = Field(
        default=8, ge=0, le=50, description="Best pages that are looked at; 0 switches it off."
    )
    seconds: float = Field(
        default=20.0, gt=0, description="Time it may take; past it the fused order stands."
    )
    weight: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Its share in the blend with the fused order; 1 would replace that.",
    )
    url: str | None = Field(
        default=None,
        description="OpenAI-compatible server of the reranking model; default: as for answers.",
    )
    api_key: SecretStr | None = Field(default=None, description="That server's API key.")


class AnswerSettings(_Section):
    """From ranked pages to an answer."""

    pages: int = Field(default=5, ge=1, le=20, description="Pages the answering model may look at.")
    url: str | None = Field(
        default=None,
        description="OpenAI-compatible server of the answering model (http://host:8000/v1).",
    )
    api_key: SecretStr | None = Field(default=None, description="That server's API key.")
    seconds: float = Field(
        default=120.0, gt=0, description="Time an answering model may take for one answer."
    )
    retries: int = Field(
        default=3, ge=0, description="Further tries, ever later, of what is worth trying again."
    )
    tokens: int = Field(default=1024, ge=16, description="Longest answer, in tokens.")
    image_pixels: int | None = Field(
        default=None,
        ge=64,
        le=8192,
        description="Longest side of page images shown to the model; default: the model's own.",
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Support below which an answer is declined; higher declines more.",
    )


class ExtractSettings(_Section):
    """From pages to values in the shape of a JSON schema, by the answering model."""

    pages: int = Field(
        default=50, ge=1, le=10_000, description="Most pages that one request may extract from."
    )
    seconds: float = Field(
        default=120.0, gt=0, description="Time the answering model may take for one page's values."
    )
    tokens: int = Field(
        default=2048, ge=16, description="Longest reply for one page's values, in tokens."
    )


class WatchSettings(_Section):
    """A folder that is kept indexed."""

    settle_seconds: float = Field(
        default=2.0,
        ge=0,
        description="A file is taken once its size and time stood still this long.",
    )
    rescan_seconds: float = Field(
        default=300.0, gt=0, description="Full rescan of watched folders at this interval."
    )
    polling: Literal["auto", "always"] = Field(
        default="auto",
        description="Look at folders at intervals instead of waiting for events; auto: where they"
        " are on a network file system.",
    )
    poll_seconds: float = Field(default=5.0, gt=0, description="Interval of polling, in seconds.")
    by_folder: bool = Field(
        default=False, description="Each sub-folder of a watched folder is a collection of its own."
    )
    ignore: list[str] = Field(
        default_factory=list,
        description="Files that are passed over, as patterns like those of .gitignore.",
    )
    grace_seconds: float = Field(
        default=60.0,
        ge=0,
        description="A document is removed once its file has been gone this long.",
    )
    hold_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="If more than this share of a folder's files, and hold_files at least, are"
        " gone, removal waits for a person's word.",
    )
    hold_files: int = Field(default=10, ge=1, description="See watch.hold_share.")


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ServerSettings(_Section):
    """`pageglass serve`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8321, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    upload_mb: int = Field(default=512, ge=1, description="Largest upload, in MB.")
    connections: int = Field(
        default=1000,
        ge=8,
        description="Most connections at a time, half of them from one address; fewer where the"
        " process may not open so many files.",
    )
    head_seconds: float = Field(
        default=10.0, gt=0, description="Time the head of a request may take to arrive, in seconds."
    )
    body_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Of a request's body 16 KB must arrive in each such time, in seconds.",
    )
    keys: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether requests need an API key (`pageglass keys`); auto: unless the server"
        " listens on this machine only.",
    )
    origins: list[str] = Field(
        default_factory=list,
        description="Sites (https://host) whose pages may use the server; a key may name its own.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most requests a minute of one key or, without keys, of one address; default:"
        " 600, or no limit where no key is needed.",
    )
    at_once: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Questions worked on at a time; more wait; default: 16, or where answers are"
        " quotes (profile lite) two for each of `threads`.",
    )
    waiting: int = Field(
        default=256, ge=0, description="Questions that may wait; more are told to come back."
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="Share of turns by the name of an API key, where questions wait; 1 for others.",
    )
    log_text: bool = Field(
        default=False,
        description="Questions, answers, what they quote, and names of collections and documents in"
        " the log.",
    )
    traces: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+(/\S*)?$",
        description="OTLP/HTTP address that traces are sent to (http://host:4318); needs the extra"
        " observability.",
    )

    stop_seconds: int = Field(
        default=30, ge=0, description="How long a stop waits for answers under way, in seconds."
    )

    @property
    def keys_needed(self) -> bool:
        """Whether requests need an API key."""
        return self.keys == "on" or (self.keys == "auto" and self.host not in LOOPBACK)


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "pageglass"


class Settings(BaseSettings):
    """All of Pageglass's options."""

    model_config = SettingsConfigDict(
        env_prefix="PAGEGLASS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )
    toml: ClassVar[Path | None] = None

    data_dir: Path = Field(
        default_factory=_default_data_dir, description="Where documents and indexes are kept."
    )
    profile: ProfileName = Field(
        default="lite", description="Which models search and answer; see the profiles table."
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Threads the models may use; default: all cores.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="WARNING", description="Least severe log records shown."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How log records are written, one line each."
    )
    ingest: IngestSettings = IngestSettings()
    models: ModelSettings = ModelSettings()
    index: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    rerank: RerankSettings = RerankSettings()
    answer: AnswerSettings = AnswerSettings()
    extract: ExtractSettings = ExtractSettings()
    watch: WatchSettings = WatchSettings()
    server: ServerSettings = ServerSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file; no .env, no secrets folder."""
        del dotenv_settings, file_secret_settings
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, _config_file()),
        )


def _config_file() -> Path:
    return Path(os.environ.get("PAGEGLASS_CONFIG") or "pageglass.toml")


_OWN_VARIABLES = {
    "PAGEGLASS_CONFIG",
    "PAGEGLASS_JUDGE_KEY",
    "PAGEGLASS_KEY",
    "PAGEGLASS_TEST_QDRANT_URL",
    "PAGEGLASS_TEST_SCREENSHOTS",
    "PAGEGLASS_URL",
}


def _unknown_variables() -> list[str]:
    """Environment variables that look like ours and name nothing: typos, almost surely."""
    known = {_variable(path) for path, _ in iter_options()}
    sections = {f"PAGEGLASS_{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith("PAGEGLASS_")
        and name.upper() not in known | sections | _OWN_VARIABLES
    )


def iter_options(model: type[BaseModel] = Settings, prefix: str = "") -> list[tuple[str, str]]:
    """Every option as (dotted name, description), in order of declaration."""
    options: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, _Section):
            options += iter_options(annotation, f"{prefix}{name}.")
        else:
            options.append((prefix + name, field.description or ""))
    return options


def _suited(settings: Settings) -> Settings:
    """The settings with the profile's own values where nobody set one."""
    sections = {
        name: getattr(settings, name).model_copy(
            update={
                k: v for k, v in own.items() if k not in getattr(settings, name).model_fields_set
            }
        )
        for name, own in PROFILES[settings.profile].settings.items()
    }
    return settings.model_copy(update=sections)


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Build the settings from flags, environment and file; SettingsError names what is wrong."""
    config = _config_file()
    if os.environ.get("PAGEGLASS_CONFIG") and not config.is_file():
        raise SettingsError(f"no settings file {config}: PAGEGLASS_CONFIG must name a TOML file")
    unknown = _unknown_variables()
    if unknown:
        known = [_variable(path) for path, _ in iter_options()]
        raise SettingsError(
            f"unknown setting {unknown[0]}{_did_you_mean(unknown[0].upper(), known)}: see the"
            " settings table in the README for the names"
        )
    try:
        return _suited(Settings(**(flags or {})))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config}: not valid TOML: {error}") from None
    except UnreadableSetting as error:
        raise SettingsError(f"an environment variable must be JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(_invalid(first["loc"], first["type"], first["msg"], config)) from None


def _variable(path: str) -> str:
    """The environment variable of an option."""
    return f"PAGEGLASS_{path.replace('.', '__').upper()}"


def _invalid(loc: tuple[int | str, ...], kind: str, message: str, config: Path) -> str:
    """What is wrong with one value, where it comes from, and what may have been meant."""
    parts = [str(part) for part in loc]
    path, said = ".".join(parts), f"{message[0].lower()}{message[1:]}"
    variable = _source_variable(parts)
    in_file = variable is None and _in_file(config, parts)
    if kind != "extra_forbidden":
        if variable is not None:
            return f"setting {path} ({variable}): {said}"
        return f"{config}: setting {path}: {said}" if in_file else f"setting {path}: {said}"
    section, name = parts[:-1], parts[-1]
    model: Any = Settings
    for part in section:
        model = model.model_fields[part].annotation
    hint = _did_you_mean(name, list(model.model_fields))
    if not hint:
        # Right, but in another section.
        same = [path for path, _ in iter_options() if path.split(".")[-1] == name]
        hint = _did_you_mean(same[0], same) if same else ""
    where = str(config) if in_file else variable or "settings"
    if section:
        where += f": [{'.'.join(section)}]"
    return f"{where} has no {name}{hint}: see the settings table in the README for the names"


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """A question after the likely name, or nothing where nothing is like it."""

    def plain(one: str) -> str:
        return re.sub(r"[^a-z0-9]", "", one.lower())

    by_plain = {plain(one): one for one in known}
    close = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.7)
    return f"; did you mean {by_plain[close[0]]}?" if close else ""


def _source_variable(parts: Sequence[str]) -> str | None:
    """The environment variable that sets an option, alone or with its section."""
    for length in range(len(parts), 0, -1):
        wanted = _variable(".".join(parts[:length]))
        for name in os.environ:
            if name.upper() == wanted:
                return name
    return None


def _in_file(config: Path, parts: Sequence[str]) -> bool:
    """Whether the settings file sets an option."""
    try:
        value: Any = tomllib.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    for part in parts:
        if isinstance(value, list):
            # Elements are named by their number.
            return True
        if not isinstance(value, dict) or part not in value:
            return False
        value = cast("dict[str, Any]", value)[part]
    return True

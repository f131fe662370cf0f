"""Where a model's files are: a folder, or a hub repository at one commit, in the hub's cache.

Nothing here loads a model or imports torch.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

from pageglass.errors import ModelError

_ADAPTER = "adapter_config.json"
_WHOLE_FILE = 16 << 20
_ENDS = 1 << 20
# What models are loaded from here. Weights of other libraries have other endings or their folder;
# the rest is for people (README.md, pictures).
_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".pt")
_OTHERS_FOLDERS = ("onnx*", "openvino*", "coreml*", "*.mlpackage", "original", "checkpoint-*", ".*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRAINING = ("optimizer.pt", "scheduler.pt")
_WEIGHTS = re.compile(
    r"(?P<model>(?:.*/)?(?:adapter_|open_clip_)?)(?:pytorch_)?model(?:-\d+-of-(?P<shards>\d+))?"
    r"\.(?P<format>safetensors|bin)(?P<index>\.index\.json)?"
)
_OPEN_CLIP = "open_clip_config.json"
# In the order in which open_clip looks for them.
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_TOKENIZER = re.compile(r"(?:[^/]*token[^/]*|vocab|merges)\.(?:json|txt)|[^/]+\.model")


@dataclass(frozen=True, slots=True)
class ModelName:
    """``text`` before and after its ``@``: a hub name or folder, and a branch, tag or commit."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """From ``name``, ``name@revision`` or a folder (whose path may hold an ``@``)."""
        if Path(text).expanduser().is_dir():
            return cls(text)
        name, _, revision = text.partition("@")
        return cls(name, revision or None)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files in ``folder``, as they are.

    ``revision`` is the hub's commit, or for a folder a fingerprint of its content; vectors of two
    checkpoints are comparable only where name and revision agree. ``base`` is what an adapter
    (LoRA) was trained on, None for a whole model.
    """

    name: str
    revision: str
    folder: Path
    base: Checkpoint | None = None

    @property
    def label(self) -> str:
        """A short name for collections and logs: the name's last part and 8 digits of revision."""
        plain = "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(self.name).name)
        return f"{plain.lower()[:48]}-{self.revision[:8]}"

    def manifest(self) -> dict[str, Any]:
        """What an index's manifest keeps of it."""
        kept: dict[str, Any] = {"name": Path(self.name).name, "revision": self.revision}
        if self.base is not None:
            kept["base"] = self.base.manifest()
        return kept

    def config(self, file: str = "config.json") -> dict[str, Any]:
        """A JSON file of the checkpoint; ModelError where it is missing or damaged."""
        try:
            read: Any = json.loads((self.folder / file).read_text("utf-8"))
        except FileNotFoundError:
            raise ModelError(f"the checkpoint {self.name} has no {file}: is it complete?") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} of the checkpoint {self.name} is damaged: {error}") from None
        if not isinstance(read, dict):
            raise ModelError(f"{file} of the checkpoint {self.name} is not a JSON object")
        return read

    def has(self, file: str) -> bool:
        """Whether the checkpoint has such a file."""
        return (self.folder / file).is_file()

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor in its safetensors files; reads their headers only."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with path.open("rb") as file:
                    length = int.from_bytes(file.read(8), "little")
                    header = json.loads(file.read(min(length, 100 << 20)))
                shapes |= {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ModelError(
                    f"{path.name} of the checkpoint {self.name} is damaged: fetch it again"
                ) from None
        return shapes


Fetch = Literal["never", "missing", "always"]
"""When the hub is asked: never, for what is not in its cache, or for all, so that a download cut
short is made whole."""


def find(
    wanted: str, *, fetch: Fetch = "missing", locked: Mapping[str, str] = MappingProxyType({})
) -> Checkpoint:
    """The checkpoint that ``wanted`` (``name``, ``name@revision`` or a folder) means.

    ``locked`` has the commit that an earlier run settled on for a name; it is used where no
    revision is named. Adapters bring their base model. ModelError says what is missing.
    """
    checkpoint = _locate(wanted, fetch, locked)
    if not checkpoint.has(_ADAPTER):
        return checkpoint
    adapter = checkpoint.config(_ADAPTER)
    name, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(f"the adapter {checkpoint.name} does not name its base model")
    # A base beside its adapter is named relative to it.
    beside = checkpoint.folder / name
    wanted = str(beside) if beside.is_dir() else f"{name}@{revision}" if revision else name
    base = _locate(wanted, fetch, locked)
    if base.has(_ADAPTER):
        raise ModelError(
            f"{name}, the base of the adapter {checkpoint.name}, is an adapter itself: merge it"
            " into its own base first"
        )
    return replace(checkpoint, base=base)


def _locate(wanted: str, fetch: Fetch, locked: Mapping[str, str]) -> Checkpoint:
    """The checkpoint itself, without a base."""
    model = ModelName.parse(wanted)
    folder = Path(model.name).expanduser()
    if model.name and folder.is_dir():
        if model.revision is not None:
            raise ModelError(f"{model.name} is a folder, which has no revisions: leave out the @")
        return Checkpoint(model.name, fingerprint(folder), folder)
    # A revision may hold slashes itself (refs/pr/3).
    if model.name.startswith((".", "/", "~")) or model.name.count("/") != 1:
        raise ModelError(
            f"no model {wanted!r}: give a folder that is there or a hub name (owner/name)"
        )
    path = _snapshot(model.name, model.revision or locked.get(model.name), fetch)
    # The cache keeps each commit in a folder of that name.
    return Checkpoint(model.name, path.name, path)


def _snapshot(name: str, revision: str | None, fetch: Fetch) -> Path:
    from huggingface_hub.errors import HFValidationError

    label = f"{name}@{revision}" if revision else name
    try:
        folder = _cached(name, revision) if fetch != "always" else None
        if folder is None and fetch != "never":
            folder = _fetched(name, revision)
    except ModelError:
        raise
    except HFValidationError as error:
        raise ModelError(f"cannot use the model {label}: {_first_line(error)}") from None
    except Exception as error:  # from missing repositories to broken connections and full disks
        raise ModelError(f"cannot fetch the model {label} from the hub: {_reason(error)}") from None
    if folder is None:
        raise ModelError(
            f"the model {label} is not on this machine: run `pageglass models pull` where there is"
            " a network, or name a folder"
        )
    return folder


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a commit in the hub's cache; None where it is not there, or not whole."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        # Asked for no file, it says where the commit is; whether all of it is there, we say.
        folder = Path(
            snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[])
        )
    except LocalEntryNotFoundError:
        return None
    try:
        listed = [file.path for file in get_cached_repo_tree(name, revision=folder.name)]
    except CachedRepoTreeNotFoundError:  # fetched file by file, by whatever else uses this cache
        listed = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return folder if _is_whole(folder, listed) else None


def _fetched(name: str, revision: str | None) -> Path:
    """The folder of a commit in the hub's cache, once all that is wanted of it is there."""
    import huggingface_hub

    # It warns at length of every further try; what came of them is said in the end.
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    if _COMMIT.fullmatch(revision or "") and (folder := _cached(name, revision)) is not None:
        return folder
    listed = huggingface_hub.model_info(name, revision=revision)
    wanted = wanted_files(file.rfilename for file in listed.siblings or [])
    if not any(_WEIGHTS.fullmatch(file) for file in wanted):
        raise ModelError(
            f"the model {name} has no weights to load (safetensors or PyTorch's): name the"
            " repository it was converted from"
        )
    huggingface_hub.snapshot_download(
        name, revision=revision, allow_patterns=[glob.escape(file) for file in wanted]
    )
    # Cut off at the wrong moment, the client returns what is there.
    if (folder := _cached(name, revision)) is None:
        raise ConnectionError("the connection broke off")
    return folder


def wanted_files(files: Iterable[str]) -> list[str]:
    """Those of a repository's files that its model is loaded from, in their order.

    Weights are taken once, as safetensors where there are any of the same model. Of a model for
    open_clip only its config, one file of weights and the tokenizer count.
    """
    kept = [file for file in files if _is_plain(PurePosixPath(file))]
    if _OPEN_CLIP in kept:
        weights = next((file for file in _OPEN_CLIP_WEIGHTS if file in kept), None)
        return [f for f in kept if f in (_OPEN_CLIP, weights) or _TOKENIZER.fullmatch(f)]
    found = {file: _WEIGHTS.fullmatch(file) for file in kept}
    safe = {match["model"] for match in found.values() if match and match["format"] != "bin"}
    return [
        file
        for file, match in found.items()
        if match is None or match["format"] != "bin" or match["model"] not in safe
    ]


def _is_plain(file: PurePosixPath) -> bool:
    if file.suffix not in _SUFFIXES or file.name in _TRAINING:
        return False
    if file.suffix in (".safetensors", ".bin") and not _WEIGHTS.fullmatch(str(file)):
        return False
    return not any(fnmatchcase(part, p) for part in file.parts[:-1] for p in _OTHERS_FOLDERS)


def _is_whole(folder: Path, listed: Iterable[str]) -> bool:
    """Whether all that is wanted of ``listed`` is there, and is more than some of the weights."""
    wanted = wanted_files(listed)
    weights = [m for m in map(_WEIGHTS.fullmatch, wanted) if m and m["index"] is None]
    shards = Counter((m["model"], m["format"], m["shards"]) for m in weights if m["shards"])
    return (
        bool(weights)
        and all(count == int(of) for (_, _, of), count in shards.items())
        and all((folder / file).is_file() for file in wanted)
    )


def _reason(error: Exception) -> str:
    """What went wrong and what helps."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            "its makers ask for consent first: give it on the model's page at the hub, then set"
            " HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such model, or it is private: check its name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such branch, tag or commit: check what follows the @"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}" if error.filename else error.strerror
    return f"{_first_line(error)}: check the network and try again, or name a folder"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def fingerprint(folder: Path) -> str:
    """40 hex digits of the files in a folder: all of small ones; size, first and last MiB of those
    over 16 MiB, since hashing gigabytes at every start would cost more than it tells."""
    digest = hashlib.sha256()
    for path in _files(folder):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
            else:
                digest.update(file.read(_ENDS))
                file.seek(-_ENDS, 2)
                digest.update(file.read())
    return digest.hexdigest()[:40]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        # Hidden folders hold what downloads left (.cache) or git keeps.
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            yield path

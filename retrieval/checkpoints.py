"""Where a model's files are: a folder, or a hub repository at one commit, in the hub's cache.

Nothing here loads a model or imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pageglass.errors import ModelError

_ADAPTER = "adapter_config.json"
_WHOLE_FILE = 16 << 20
_ENDS = 1 << 20
_NOT_NEEDED = ("*.onnx", "onnx/*", "*.h5", "*.msgpack", "*.ot", "*.pth", "*.gguf", "*.mlpackage/*")


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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    label = f"{name}@{revision}" if revision else name
    # Looking and fetching leave out the same files: what was fetched must count as complete.
    snapshot = partial(
        snapshot_download, name, revision=revision, ignore_patterns=list(_NOT_NEEDED)
    )
    if fetch != "always":
        try:
            return Path(snapshot(local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        except Exception as error:  # the hub's client has many kinds for a name that is no name
            raise ModelError(f"cannot use the model {label}: {_first_line(error)}") from None
    if fetch == "never":
        raise ModelError(
            f"the model {label} is not on this machine: run `pageglass models pull` where there is"
            " a network, or name a folder"
        )
    try:
        return Path(snapshot())
    except Exception as error:  # from missing repositories to broken connections
        raise ModelError(
            f"cannot fetch the model {label} from the hub: {_first_line(error)}: check its name and"
            " the network, or name a folder"
        ) from None


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
    suffixes: Sequence[str] = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".pt")
    for path in sorted(folder.rglob("*")):
        # Hidden folders hold what downloads left (.cache) or git keeps.
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in suffixes and not hidden and path.is_file():
            yield path

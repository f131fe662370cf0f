"""Fetching a profile's checkpoints, and moving its vectors to a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from api.owner import Owner, OwnerLock, require_data_folder
from pageglass.errors import SettingsError
from pageglass.profiles import BUNDLED
from pageglass.settings import Settings
from retrieval.checkpoints import Checkpoint, ModelName
from retrieval.encoders.minilm import MiniLM
from retrieval.index import open_index
from retrieval.index.copying import copy
from retrieval.profiles import Checkpoints, chosen_models, load_profile


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint that is on this machine; ``size`` is its bytes on disk, its base's included."""

    used_for: str
    checkpoint: Checkpoint
    size: int


def needed(settings: Settings) -> dict[str, str]:
    """The checkpoints that this machine needs, by what they are used for.

    Models that a server runs are that server's, unless they are folders. A reranking model that is
    the answering one is not listed again.
    """
    models, rerank = chosen_models(settings), settings.rerank
    wanted = {
        "visual": models.visual,
        "image": models.image,
        "text": None if models.text == BUNDLED else models.text,
        "answer": _run_here(models.answer, models.answer_url),
        "rerank": _run_here(models.rerank, rerank.url) if rerank.pages else None,
    }
    if rerank.url is None and models.rerank == models.answer:
        wanted["rerank"] = None
    return {used_for: name for used_for, name in wanted.items() if name is not None}


def _run_here(name: str | None, url: str | None) -> str | None:
    here = url is None or (
        name is not None and Path(ModelName.parse(name).name).expanduser().is_dir()
    )
    return name if here else None


def pull(settings: Settings) -> Iterator[Pulled]:
    """Fetch what the settings' profile needs, one after the other; ModelError says what cannot be
    had."""
    checkpoints = Checkpoints(lock=settings.data_dir / "models.json", fetch="always")
    for used_for, name in needed(settings).items():
        checkpoint = checkpoints.find(name)
        yield Pulled(used_for, checkpoint, _size(checkpoint))


def _size(checkpoint: Checkpoint) -> int:
    own = sum(p.stat().st_size for p in checkpoint.folder.rglob("*") if p.is_file())
    return own + (_size(checkpoint.base) if checkpoint.base else 0)


def copy_to_server(
    settings: Settings, url: str, *, progress: Callable[[int, int], None]
) -> Iterator[tuple[str, int]]:
    """Copy every collection of the data folder to the Qdrant server at ``url``; yields each one's
    name and number of points once they are there, and calls ``progress`` with those written and
    those there are. NoDataFolder, FolderInUse where a process owns the folder."""
    if settings.index.url is not None:
        raise SettingsError("index.url is set, so the vectors are on a server already: unset it")
    require_data_folder(settings.data_dir)
    lock = OwnerLock(settings.data_dir, Owner(os.getpid(), "copy", None))
    try:
        checkpoints = Checkpoints(lock=settings.data_dir / "models.json", fetch="never")
        profile = load_profile(settings, MiniLM(threads=settings.threads), checkpoints)
        root = settings.data_dir / "index"
        server = settings.index.model_copy(update={"url": url})
        for space in profile.spaces:
            with (
                closing(open_index(settings.index, root, space.spec)) as source,
                closing(open_index(server, root, space.spec)) as target,
            ):
                yield space.spec.name, copy(source, target, progress=progress)
    finally:
        lock.release()

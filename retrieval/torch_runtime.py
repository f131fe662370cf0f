"""torch and the libraries on it: imported late, on the right device, within memory.

The one place that knows of missing extras, of torchvision built for another torch, of devices and
number formats, and of what to do when memory runs out. Importing it imports none of them.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pageglass.errors import MissingExtra, ModelError, OutOfMemory
from pageglass.settings import ModelSettings

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

INSTALL = {
    "models": "pip install -e '.[models]' -c constraints.txt",
    "vllm": "pip install -e '.[vllm]'",
    "observability": "pip install -e '.[observability]' -c constraints.txt",
}
"""The command that installs each extra, in the folder of this repository."""

_importing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a model runs: ``device`` as torch names it, ``dtype`` as an attribute of torch."""

    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype itself."""
        return getattr(library("torch"), self.dtype)


def runtime(settings: ModelSettings) -> Runtime:
    """The device and number format that ``settings`` mean on this machine.

    ``auto`` takes cuda, then mps, then the processor; bfloat16 on cuda, float32 elsewhere.
    ModelError where a device was named that is not there.
    """
    torch = library("torch")
    device = settings.device
    if device == "auto":
        device = "cpu"
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
    kind, _, number = device.partition(":")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        raise ModelError(
            f"there is no device {device} for torch {torch.__version__}: set models.device to cpu"
            " or auto, or install a torch built for it"
        )
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if kind == "cuda" else "float32"
    return Runtime(device, dtype)


def library(name: str, extra: str = "models") -> Any:
    """Import a library of an extra; MissingExtra says how to install it.

    Safe from several threads: torch's and transformers' lazy imports are not.
    """
    with _importing:
        try:
            importlib.import_module("torch")
            _declare_missing_operators()
            module = importlib.import_module(name)
            if transformers := sys.modules.get("transformers"):
                # Its bars would run through what commands print.
                transformers.utils.logging.disable_progress_bar()
            return module
        except ModuleNotFoundError as error:
            raise MissingExtra(_missing(error.name or name, extra)) from None
        except (ImportError, OSError, RuntimeError) as error:
            # A library that is there and cannot be loaded: a torch and a CUDA that do not match.
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{name} does not load: {reason}: reinstall it with {INSTALL[extra]}"
            ) from error


def require(name: str, extra: str = "models") -> None:
    """MissingExtra unless the library ``name`` is installed; imports nothing.

    Asked before gigabytes are fetched for it.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingExtra(_missing(name, extra))


def _missing(name: str, extra: str) -> str:
    return (
        f"{name} is not installed: run {INSTALL[extra]} in Pageglass's folder"
        " (profiles cpu and gpu need it)"
    )


@cache
def _declare_missing_operators() -> Any:
    """Let torchvision be imported beside a torch it was not built for.

    Its wheel from PyPI is built for CUDA. Beside a CPU torch its own library does not load, and
    `import torchvision` ends with "operator torchvision::nms does not exist", and with it all of
    transformers' image processors, timm, open_clip and colpali-engine. None of them calls nms on
    our way; declaring what is missing, before the import, is enough.

    The result is to be kept (by ``cache``): what it declares lives as long as it does.
    """
    torch = importlib.import_module("torch")
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        return None
    own = importlib.machinery.PathFinder.find_spec("_C", spec.submodule_search_locations)
    if own is not None and own.origin is not None:
        # As torchvision itself does. Where its operators load, declaring them again would be fatal.
        with suppress(OSError):
            torch.ops.load_library(own.origin)
            return None
    declared = torch.library.Library("torchvision", "DEF")
    declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


class Batches:
    """Runs a model over items a batch at a time; halves the batch whenever memory runs out.

    What fitted is remembered, so that a large first guess costs a few failures in all.
    """

    def __init__(self, size: int) -> None:
        """Begin with ``size`` items a batch."""
        self.size = size

    def run(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> list[Result]:
        """``work``'s results for all items, in order; OutOfMemory where even one does not fit."""
        results: list[Result] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            try:
                results += work(batch)
                continue
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise OutOfMemory(
                        "there is not enough memory for a single page: choose a smaller model, a"
                        " lower ingest.dpi, or another models.device"
                    ) from error
            # Outside the except block: the exception's traceback holds the tensors that filled it.
            self.size = max(1, len(batch) // 2)
            _free()
        return results


def _is_out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError; the processor's allocator raises a plain one.
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate memory" in text
    )


def _free() -> None:
    gc.collect()
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

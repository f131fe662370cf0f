from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pageglass.errors import MissingExtra, ModelError, OutOfMemory
from pageglass.settings import ModelSettings
from retrieval.torch_runtime import Batches, library, require, runtime


class Device:
    """Doubles numbers, ``room`` at a time, and fails as torch does where there are more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []

    def double(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(len(batch))
        if len(batch) > self.room:
            raise library("torch").OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return [2 * number for number in batch]


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    device, batches = Device(room=3), Batches(16)
    assert batches.run(range(20), device.double) == [2 * number for number in range(20)]
    assert device.batches == [16, 8, 4, *[2] * 10]
    # What fitted is remembered.
    batches.run(range(4), device.double)
    assert device.batches[-2:] == [2, 2]


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
def test_every_item_is_done_once_and_in_order(count: int, size: int, room: int) -> None:
    done = Batches(size).run(range(count), Device(room).double)
    assert done == [2 * number for number in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"),
    ],
)
def test_a_single_item_that_does_not_fit_is_an_error_that_says_what_to_do(
    error: Exception,
) -> None:
    def full(batch: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(OutOfMemory, match=r"choose a smaller model") as raised:
        Batches(4).run([1, 2, 3], full)
    assert raised.value.__cause__ is error


def test_other_errors_pass_and_halve_nothing() -> None:
    batches = Batches(4)

    def broken(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        batches.run([1, 2, 3], broken)
    assert batches.size == 4


def test_a_named_device_and_number_format_are_taken_as_they_are() -> None:
    place = runtime(ModelSettings(device="cpu", dtype="bfloat16"))
    assert (place.device, place.dtype) == ("cpu", "bfloat16")
    assert place.torch_dtype is library("torch").bfloat16


def test_auto_computes_in_single_precision_off_cuda() -> None:
    place = runtime(ModelSettings())
    assert place.dtype == ("bfloat16" if place.device.startswith("cuda") else "float32")
    assert runtime(ModelSettings(device="cpu")).dtype == "float32"


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_set() -> None:
    with pytest.raises(ModelError, match=r"no device cuda:63 .* set models\.device to cpu"):
        runtime(ModelSettings(device="cuda:63"))


def test_a_library_that_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtra, match=r"no_such_library is not installed: run pip install"):
        library("no_such_library.models", "vllm")


@pytest.mark.parametrize("kind", ["ImportError", "OSError", "RuntimeError"])
def test_a_library_that_does_not_load_is_told_from_one_that_is_missing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"broken_{kind}.py").write_text(f"raise {kind}('libcudart.so:\\n no such file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"does not load: libcudart\.so: no such file") as raised:
        library(f"broken_{kind}")
    assert not isinstance(raised.value, MissingExtra)


def test_image_processors_load_whatever_torchvision_was_built_for() -> None:
    assert library("transformers").SiglipImageProcessor is not None
    assert library("torchvision.transforms").functional is not None


def test_importing_the_runtime_imports_no_torch() -> None:
    program = "import sys, retrieval.torch_runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, check=True)


def test_a_library_can_be_asked_for_before_anything_is_fetched_for_it() -> None:
    require("json")
    with pytest.raises(MissingExtra, match=r"no_such_library is not installed: run pip install"):
        require("no_such_library")

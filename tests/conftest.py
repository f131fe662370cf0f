from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from pageglass.settings import Settings, load_settings
from retrieval.encoders.minilm import MiniLM

if TYPE_CHECKING:
    from api.services import Services

# Two busy cores must not decide whether a property holds; the same examples every time.
hypothesis_settings.register_profile("ours", deadline=None, derandomize=True, max_examples=50)
hypothesis_settings.load_profile("ours")


@pytest.fixture(autouse=True)
def _no_settings_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # pyright: ignore[reportUnusedFunction]
    """Whoever runs the tests may have settings; the tests see none of them."""
    for name in list(os.environ):
        if name.startswith("PAGEGLASS_") and not name.startswith("PAGEGLASS_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The bundled model, loaded once."""
    return MiniLM()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"data_dir": tmp_path / "data"})


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The real thing on a data folder of its own."""
    from api.services import Services

    with Services(settings, command="test") as services:
        yield services

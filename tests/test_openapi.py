"""The description of the API: it is what the server does, and clients may be generated from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.config import (
    CoveragePhaseConfig,
    FuzzingPhaseConfig,
    GenerationConfig,
    PhasesConfig,
    ProjectConfig,
    ProjectsConfig,
)

from api.services import Services
from pageglass.settings import load_settings
from tests import tiny
from tests.serving import serving

_FERRY = "The ferry to Hest leaves at seven in the morning and takes one hundred and four cars."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a real server, and the id of a document it has indexed."""
    folder = tmp_path_factory.mktemp("openapi")
    settings = load_settings({"data_dir": folder / "data", "ingest": {"workers": 0}})
    with Services(settings, command="test") as services:
        path = tiny.pdf(folder / "ferry.pdf", [_FERRY, f"Second page. {_FERRY}"])
        document = next(iter(services.ingest([path]))).document
        assert document is not None
        services.start_worker()
        with serving(services) as address:
            yield address, document.id


@pytest.fixture(scope="module")
def described(server: tuple[str, str]) -> Any:
    address, _ = server
    phases = PhasesConfig(
        coverage=CoveragePhaseConfig(enabled=True), fuzzing=FuzzingPhaseConfig(enabled=True)
    )
    config = schemathesis.Config(
        seed=5,
        projects=ProjectsConfig(
            default=ProjectConfig(
                phases=phases, generation=GenerationConfig(deterministic=True, database="none")
            )
        ),
    )
    return schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)


api = schemathesis.pytest.from_fixture("described")


@api.exclude(operation_id="follow_jobs").parametrize()
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
def test_the_server_does_what_is_described(case: Case, server: tuple[str, str]) -> None:
    import time
    t=time.perf_counter()
    try:
        case.call_and_validate(timeout=30)
    finally:
        with open('/tmp/w5/load/cases.txt','a') as f: print(case.operation.definition.raw.get('operationId'), case.method, round(time.perf_counter()-t,3), file=f)

"""The description of the API: it is what the server does, and clients may be generated from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.services import Services
from pageglass.settings import load_settings
from tests import tiny
from tests.serving import serving

_FERRY = "The ferry to Hest leaves at seven in the morning and takes one hundred and four cars."

# Clients are generated from these, so none may change or go.
OPERATIONS = """
ask POST /ask
search POST /search
list_models GET /v1/models
get_model GET /v1/models/{model}
chat_completions POST /v1/chat/completions
add_documents POST /documents
list_documents GET /documents
get_document GET /documents/{document_id}
change_document PATCH /documents/{document_id}
remove_document DELETE /documents/{document_id}
list_collections GET /collections
get_page GET /documents/{document_id}/pages/{number}
get_page_image GET /documents/{document_id}/pages/{number}/image
list_jobs GET /jobs
follow_jobs GET /jobs/events
retry_dead_jobs POST /jobs/retry
get_job GET /jobs/{document_id}
retry_job POST /jobs/{document_id}/retry
cancel_job POST /jobs/{document_id}/cancel
list_deletions GET /deletions
settle_deletions POST /deletions
check_folder POST /check
make_backup POST /backups
list_sources GET /sources
take_source POST /sources
extract POST /extract
rename_source POST /sources/renamed
miss_sources POST /sources/missing
hold_sources POST /sources/hold
forget_sources POST /sources/forget
livez GET /livez
readyz GET /readyz
version GET /version
access GET /access
status GET /status
metrics GET /metrics
"""
_OPERATIONS = [tuple(line.split()) for line in OPERATIONS.strip().splitlines()]

# It never ends; tests/test_jobs_api.py follows it.
_ENDLESS = {"follow_jobs"}

_CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


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
    """The server's description of itself."""
    address, _ = server
    config = schemathesis.Config(seed=5)
    return schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)


def _operations(described: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described.raw_schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_operations_keep_their_names(described: Any) -> None:
    there = [
        (operation["operationId"], method, path)
        for method, path, operation in _operations(described)
    ]
    assert sorted(there) == sorted(_OPERATIONS)


def test_the_description_is_openapi_3_1(described: Any) -> None:
    assert described.raw_schema["openapi"].startswith("3.1.")
    described.validate()


def test_every_reference_leads_somewhere(described: Any) -> None:
    whole = described.raw_schema

    def look(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for inner in part.values():
                yield from look(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from look(inner)

    named = set(look(whole))
    assert "#/components/schemas/Problem" in named
    for reference in named:
        here, *steps = reference.split("/")
        assert here == "#"
        place = whole
        for step in steps:
            place = place[step]


def test_examples_are_what_the_server_takes(described: Any) -> None:
    components = described.raw_schema["components"]
    shown = 0
    for _, path, operation in _operations(described):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        # Those are for our own watcher.
        if body is None or path.startswith("/sources"):
            continue
        name = body["schema"]["$ref"].rsplit("/")[-1]
        examples = components["schemas"][name].get("examples")
        assert examples, f"{name} shows no example"
        for example in examples:
            schema = {**body["schema"], "components": components}
            jsonschema.validate(example, schema)
            shown += 1
    assert shown


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for id, method, path in _OPERATIONS if id not in _ENDLESS],
    ids=[id for id, _, _ in _OPERATIONS if id not in _ENDLESS],
)
def test_the_server_does_what_is_described(
    method: str, path: str, described: Any, server: tuple[str, str]
) -> None:
    operation = described[path][method]
    # That anything else may happen, too, is said for programs that read it, and would let anything
    # pass here.
    operation.definition.raw["responses"].pop("default", None)
    body = operation.definition.raw.get("requestBody", {"content": {}})["content"]
    # In forms and queries everything is text, so no type there is wrong.
    typed = "application/json" in body
    checks = [check for check in _CHECKS if typed or check is not negative_data_rejection]
    cases = [operation.as_strategy(mode) for mode in GenerationMode]
    if "{document_id}" in path and method != "DELETE":
        cases.append(operation.as_strategy(path_parameters={"document_id": server[1]}))

    @given(case=st.one_of(cases))
    @settings(
        max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
    )
    def does_so(case: Case[Any]) -> None:
        response = case.call_and_validate(checks=checks, timeout=30)
        # Nothing fails here; but a profile may lack something.
        assert response.status_code < 500 or response.status_code == 501

    does_so()

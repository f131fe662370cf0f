"""What is the server store's own; the contract of both stores is in test_index.py."""

from __future__ import annotations

import logging
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pydantic import SecretStr
from qdrant_client import QdrantClient
from qdrant_client.http import models
from qdrant_grpc import QdrantGrpc, serve_grpc
from qdrant_http import Fault, QdrantHttp, serve

from pageglass.errors import IndexMismatch, SettingsError, StoreError, StoreUnreachable
from pageglass.settings import IndexSettings
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vectors
from retrieval.index import CollectionSpec, PagePoint, Scope, VectorSpec, open_index
from retrieval.index.server import ServerIndex, connect

pytestmark = pytest.mark.filterwarnings(
    "ignore:Payload indexes have no effect", "ignore:Local mode performs exact"
)

SPEC = CollectionSpec(
    "text--tiny-1",
    {
        "dense": VectorSpec("dense", 4),
        "tokens": VectorSpec("multi", 128, "float16", quantization="binary"),
        "bytes": VectorSpec("multi", 128, "uint8", scale=300.0),
        "sparse": VectorSpec("sparse", idf=True),
    },
    {"name": "tiny-1"},
)
EVERYTHING = Scope()
QUESTION = np.array([1.0, 0, 0, 0])


@pytest.fixture
def qdrant() -> Iterator[QdrantHttp]:
    with serve() as qdrant:
        yield qdrant


def opened(qdrant: QdrantHttp, spec: CollectionSpec = SPEC, **settings: Any) -> ServerIndex:
    wanted = IndexSettings(url=qdrant.url, **settings)
    return ServerIndex(connect(wanted), spec, wanted)


def point(index: int, vectors: Vectors | None = None) -> PagePoint:
    return PagePoint(PageRef("d", index), "c", vectors or {"dense": np.array([1.0, 0, 0, 0])})


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_an_index_is_found_again_by_another_client(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    index.upsert([point(3)])
    index.close()
    again = opened(qdrant)
    assert again.query("dense", QUESTION, limit=1, scope=EVERYTHING) == [(PageRef("d", 3), 1.0)]
    again.close()


def test_the_settings_say_which_store_is_opened(qdrant: QdrantHttp, tmp_path: Path) -> None:
    index = open_index(IndexSettings(url=qdrant.url, prefix="mine-"), tmp_path, SPEC)
    index.close()
    assert qdrant.client.collection_exists("mine-text--tiny-1")
    assert not list(tmp_path.iterdir())
    open_index(IndexSettings(), tmp_path, SPEC).close()
    assert (tmp_path / SPEC.name).is_dir()


# What is sent


def test_a_collection_is_created_as_specified(qdrant: QdrantHttp) -> None:
    opened(qdrant).close()
    params = qdrant.client.get_collection("pageglass-text--tiny-1").config.params
    assert isinstance(params.vectors, dict)
    tokens, plain = params.vectors["tokens"], params.vectors["dense"]
    assert tokens.distance == plain.distance == models.Distance.DOT
    assert tokens.datatype == models.Datatype.FLOAT16
    assert params.vectors["bytes"].datatype == models.Datatype.UINT8
    assert tokens.multivector_config and not plain.multivector_config
    assert tokens.hnsw_config and tokens.hnsw_config.m == 0
    assert plain.hnsw_config is None
    assert tokens.on_disk
    assert isinstance(tokens.quantization_config, models.BinaryQuantization)
    assert params.sparse_vectors
    assert params.sparse_vectors["sparse"].modifier == models.Modifier.IDF
    assert len(qdrant.sent("PUT", "/index")) == 3


def test_large_upserts_are_split_below_the_limit(qdrant: QdrantHttp) -> None:
    index = opened(qdrant, batch_mb=1)
    random = np.random.default_rng(0)
    pages = [
        {
            "tokens": random.standard_normal((40, 128)),
            "bytes": random.standard_normal((20, 128)) / 10,
            "sparse": SparseVector(tuple(range(500)), tuple(random.random(500).tolist())),
        }
        for _ in range(40)
    ]
    index.upsert([point(i, page) for i, page in enumerate(pages)])
    sizes = [request.size for request in qdrant.sent("PUT", "/points")]
    assert max(sizes) <= 1_000_000
    # The estimate is not far off: requests are well filled.
    assert len(sizes) <= 1.6 * sum(sizes) / 1_000_000 + 1
    assert index.count() == 40
    index.close()


def test_a_page_larger_than_the_limit_is_sent_alone(qdrant: QdrantHttp) -> None:
    index = opened(qdrant, batch_mb=1)
    large = {"tokens": np.random.default_rng(0).standard_normal((800, 128))}
    index.upsert([point(0), point(1, large), point(2), point(3)])
    sizes = [request.size for request in qdrant.sent("PUT", "/points")]
    assert len(sizes) == 3
    assert sizes[1] > 1_000_000
    assert index.count() == 4
    index.close()


def test_the_api_key_is_sent_and_nobody_is_warned_over_and_over() -> None:
    with serve(api_key="secret") as qdrant, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Payload indexes|Local mode")
        index = opened(qdrant, api_key=SecretStr("secret"))
        index.upsert([point(0)])
        index.close()
    assert {request.headers["api-key"] for request in qdrant.requests} == {"secret"}


def test_a_key_that_leaves_the_machine_unencrypted_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = SecretStr("secret")
    with caplog.at_level(logging.WARNING):
        connect(IndexSettings(url="http://127.0.0.1:6333", api_key=key)).close()
        connect(IndexSettings(url="https://qdrant.example:6333", api_key=key)).close()
        assert not caplog.records
        connect(IndexSettings(url="http://qdrant.example:6333", api_key=key)).close()
    assert [record.message for record in caplog.records] == [
        "the API key goes to qdrant.example:6333 unencrypted: use https in index.url"
    ]


def test_a_login_in_the_url_is_sent_and_not_shown(qdrant: QdrantHttp) -> None:
    url = qdrant.url.replace("http://", "http://me:p%40ss@")
    settings = IndexSettings(url=url, retries=0)
    index = ServerIndex(connect(settings), SPEC, settings)
    assert {request.headers["authorization"] for request in qdrant.requests} == {
        "Basic bWU6cEBzcw=="
    }
    qdrant.faults.append(Fault(status=500))
    with pytest.raises(StoreError) as raised:
        index.count()
    assert qdrant.url in str(raised.value)
    assert "p%40ss" not in str(raised.value)
    index.close()


@pytest.mark.parametrize("url", ["qdrant:6333", "ftp://qdrant", "http://", "http://qdrant:many"])
def test_what_is_no_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"setting index\.url"):
        connect(IndexSettings(url=url))


# What fails, and what is tried again


def test_what_failed_in_transit_is_tried_again(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    qdrant.faults.extend([Fault(status=503), Fault(status=0), Fault(status=429)])
    index.upsert([point(0)])
    assert len(qdrant.sent("PUT", "/points")) == 4
    assert index.count() == 1
    index.close()


def test_pauses_grow(qdrant: QdrantHttp, caplog: pytest.LogCaptureFixture) -> None:
    index = opened(qdrant)
    qdrant.faults.extend([Fault(status=503)] * 3)
    with caplog.at_level(logging.INFO, "retrieval.index.server"):
        started = time.monotonic()
        index.count()
        elapsed = time.monotonic() - started
    # 0.25, 0.5 and 1 s, each shortened by up to half.
    assert 0.875 <= elapsed < 3
    assert len(caplog.records) == 3
    index.close()


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when_to_come_back(qdrant: QdrantHttp, status: int) -> None:
    index = opened(qdrant)
    qdrant.faults.append(Fault(status=status, headers={"Retry-After": "1"}))
    started = time.monotonic()
    index.count()
    assert time.monotonic() - started >= 1
    index.close()


def test_a_pause_longer_than_a_request_may_take_is_not_waited_for(qdrant: QdrantHttp) -> None:
    index = opened(qdrant, timeout_seconds=2)
    qdrant.faults.append(Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(StoreUnreachable, match="overloaded"):
        index.count()
    index.close()


def test_a_date_to_come_back_at_is_no_reason_to_fail(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    date = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    qdrant.faults.extend([Fault(status=429, headers=date), Fault(status=503, headers=date)])
    assert index.count() == 0
    index.close()


def test_tries_come_to_an_end(qdrant: QdrantHttp) -> None:
    index = opened(qdrant, retries=2)
    qdrant.requests.clear()
    qdrant.faults.extend([Fault(status=500)] * 9)
    with pytest.raises(StoreUnreachable, match=r"answers 500: a fault of the test"):
        index.count()
    assert len(qdrant.requests) == 3
    index.close()


def test_what_the_server_refuses_is_not_tried_again(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    qdrant.requests.clear()
    qdrant.faults.append(Fault(status=400))
    with pytest.raises(StoreError, match=r"refuses a request \(400\): a fault of the test"):
        index.count()
    assert len(qdrant.requests) == 1
    index.close()


def test_a_wrong_or_missing_key_names_the_setting() -> None:
    with serve(api_key="secret") as qdrant:
        with pytest.raises(StoreError, match=r"wants an API key: set index\.api_key"):
            opened(qdrant)
        with pytest.raises(StoreError, match=r"refuses the API key: correct index\.api_key"):
            opened(qdrant, api_key=SecretStr("guessed"))
        assert len(qdrant.requests) == 2
        assert not qdrant.client.get_collections().collections
        qdrant.faults.append(Fault(status=403))
        with pytest.raises(StoreError, match=r"correct index\.api_key"):
            opened(qdrant, api_key=SecretStr("secret"))


def test_a_server_that_hangs_is_given_up_once_the_time_is_over(qdrant: QdrantHttp) -> None:
    index = opened(qdrant, timeout_seconds=1)
    qdrant.requests.clear()
    qdrant.faults.append(Fault(status=200, hang=2.5))
    started = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"within 1 s.*index\.timeout_seconds"):
        index.count()
    assert time.monotonic() - started < 2
    assert len(qdrant.requests) == 1
    index.close()


def test_where_nobody_listens_the_setting_is_named() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    settings = IndexSettings(url=url, retries=1)
    with pytest.raises(StoreUnreachable) as raised:
        ServerIndex(connect(settings), SPEC, settings)
    message = str(raised.value)
    assert url in message
    assert "index.url" in message
    assert "\n" not in message


def test_something_else_at_the_address_is_noticed(qdrant: QdrantHttp) -> None:
    qdrant.faults.append(Fault(status=200, body=b"<html>hello</html>"))
    with pytest.raises(StoreError, match=r"does not answer like one: correct index\.url"):
        opened(qdrant)


# The same by gRPC


@pytest.fixture
def by_grpc() -> Iterator[QdrantGrpc]:
    with serve_grpc() as qdrant:
        yield qdrant


def opened_by_grpc(qdrant: QdrantGrpc, **settings: Any) -> ServerIndex:
    wanted = IndexSettings(url=qdrant.url, grpc=True, **settings)
    return ServerIndex(connect(wanted), SPEC, wanted)


def test_grpc_sends_the_key_and_tries_again_what_failed_in_transit(by_grpc: QdrantGrpc) -> None:
    index = opened_by_grpc(by_grpc, api_key=SecretStr("secret"))
    by_grpc.faults.extend(
        [(grpc.StatusCode.UNAVAILABLE, 0), (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)]
    )
    started = time.monotonic()
    index.upsert([point(0)])
    assert time.monotonic() - started >= 1
    assert index.count() == 1
    assert {headers["api-key"] for headers in by_grpc.headers} == {"secret"}
    index.close()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, StoreUnreachable, r"cannot be reached .*index\.url"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, StoreUnreachable, r"index\.timeout_seconds"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, StoreUnreachable, "overloaded"),
        (grpc.StatusCode.UNAUTHENTICATED, StoreError, r"wants an API key: set index\.api_key"),
        (grpc.StatusCode.PERMISSION_DENIED, StoreError, r"index\.api_key"),
        (grpc.StatusCode.INVALID_ARGUMENT, StoreError, "refuses a request .*a fault of the test"),
    ],
)
def test_grpc_failures_are_named_like_those_of_rest(
    by_grpc: QdrantGrpc, code: grpc.StatusCode, kind: type[StoreError], message: str
) -> None:
    index = opened_by_grpc(by_grpc, retries=0)
    by_grpc.faults.append((code, 0))
    with pytest.raises(StoreError, match=message) as raised:
        index.count()
    assert raised.type is kind
    index.close()


def test_where_nobody_listens_by_grpc_the_setting_is_named() -> None:
    settings = IndexSettings(
        url=f"http://127.0.0.1:{closed_port() - 1}", grpc=True, retries=1, timeout_seconds=5
    )
    with pytest.raises(StoreUnreachable, match=r"cannot be reached .*index\.url"):
        ServerIndex(connect(settings), SPEC, settings)


# The collection and its manifest


def test_a_creation_whose_answer_is_lost_is_no_failure(qdrant: QdrantHttp) -> None:
    # The collection does not exist yet; then it is made, and nobody hears of it.
    exists = Fault(status=200, body=b'{"result": {"exists": false}, "status": "ok", "time": 0}')
    qdrant.faults.extend([exists, Fault(done=True)])
    index = opened(qdrant)
    assert len(qdrant.sent("PUT", "/pageglass-text--tiny-1")) == 2
    index.upsert([point(0)])
    assert index.count() == 1
    index.close()


def test_processes_that_create_at_once_share_one_collection(qdrant: QdrantHttp) -> None:
    together = threading.Barrier(4)
    indexes: list[ServerIndex] = []

    def open_() -> None:
        together.wait()
        indexes.append(opened(qdrant))

    threads = [threading.Thread(target=open_) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(indexes) == 4
    indexes[0].upsert([point(0)])
    assert [index.count() for index in indexes] == [1, 1, 1, 1]
    for index in indexes:
        index.close()


def test_a_mismatch_names_the_command_that_repairs_it(qdrant: QdrantHttp) -> None:
    opened(qdrant).close()
    other = replace(SPEC, model={"name": "tiny-2"})
    with pytest.raises(IndexMismatch) as raised:
        opened(qdrant, other)
    assert f"curl -X DELETE {qdrant.url}/collections/pageglass-text--tiny-1" in str(raised.value)
    opened(qdrant, other, prefix="new-").close()


def test_a_collection_that_is_not_ours_is_not_touched(qdrant: QdrantHttp) -> None:
    name = "pageglass-text--tiny-1"
    qdrant.client.create_collection(name, vectors_config={})
    with pytest.raises(StoreError, match=r"has no manifest.*1\.16"):
        opened(qdrant)
    assert not qdrant.client.get_collection(name).config.params.vectors
    assert {request.method for request in qdrant.requests} == {"GET"}


def test_another_quantization_is_taken_over_without_ingesting_again(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    index.upsert([point(0)])
    assert not qdrant.sent("PATCH", "")
    index.close()
    tokens = replace(SPEC.vectors["tokens"], quantization="none")
    index = opened(qdrant, replace(SPEC, vectors={**SPEC.vectors, "tokens": tokens}))
    assert len(qdrant.sent("PATCH", "/collections/pageglass-text--tiny-1")) == 1
    assert index.count() == 1
    index.close()


def test_several_threads_may_ask_at_once(qdrant: QdrantHttp) -> None:
    index = opened(qdrant)
    index.upsert([point(i) for i in range(20)])
    counts: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: counts.append(
                len(index.query("dense", QUESTION, limit=20, scope=EVERYTHING))
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [20] * 8
    index.close()


def test_one_client_serves_several_collections() -> None:
    client = QdrantClient(":memory:")
    one = ServerIndex(client, SPEC, IndexSettings())
    other = ServerIndex(client, replace(SPEC, name="image--tiny-1"), IndexSettings())
    one.upsert([point(0)])
    assert (one.count(), other.count()) == (1, 0)

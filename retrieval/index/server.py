"""The server store: one collection of a Qdrant server or cluster an index. Needs Qdrant 1.16.

The manifest is the collection's metadata, written as it is created, so that whoever finds the
collection finds the manifest. Requests that failed in transit are tried again; all of them may be
repeated without harm.
"""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pageglass.errors import IndexMismatch, SettingsError, StoreError, StoreUnreachable
from pageglass.settings import IndexSettings
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vector, Vectors
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope, VectorSpec, point_id
from retrieval.index.quantization import (
    OVERSAMPLING,
    from_stored,
    is_empty,
    score_from_stored,
    to_stored,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http import models

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_METADATA = "pageglass"
"""The key of the collection's metadata that holds the manifest."""
_PORT = 6333

# Pauses between tries, in seconds: doubled each time, and shortened by up to half at random so
# that clients which failed together do not come back together.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0

# Bytes a number takes in a request, rather too many than too few. In JSON a float32 has up to 17
# digits, point, sign, exponent and comma; those of a float16 and a byte are fewer.
_JSON_BYTES = {"float32": 24, "float16": 20, "uint8": 6}
_GRPC_BYTES = 4
_JSON_INDEX_BYTES, _GRPC_INDEX_BYTES = 11, 5
_POINT_BYTES = 400
"""Id, payload and punctuation of a point; a document id has 32 letters, a collection up to 64."""

_log = logging.getLogger(__name__)


def connect(settings: IndexSettings) -> QdrantClient:
    """A client of the server at ``settings.url``; nothing is sent yet.

    gRPC goes to the port after REST's (6334 after 6333). A name and password in the URL are sent
    as HTTP basic authentication. SettingsError where the URL is none.
    """
    from qdrant_client import QdrantClient

    url = _split(settings.url or "")
    host = url.netloc.rpartition("@")[2]
    headers: dict[str, str] = {}
    if settings.api_key is not None:
        # As a header of our own: the client would warn of plain http with every connection.
        headers["api-key"] = settings.api_key.get_secret_value()
        if url.scheme == "http" and not _is_loopback(url.hostname or ""):
            _log.warning("the API key goes to %s unencrypted: use https in index.url", host)
    if url.username:
        login = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["authorization"] = f"Basic {base64.b64encode(login).decode()}"
    return QdrantClient(
        url=f"{url.scheme}://{host}{url.path}",
        port=_PORT,
        grpc_port=(url.port or _PORT) + 1,
        prefer_grpc=settings.grpc,
        timeout=math.ceil(settings.timeout_seconds),
        headers=headers,
        # It would warn from a thread of its own; what we need we check ourselves.
        check_compatibility=False,
    )


class ServerIndex:
    """One collection of page points on a server, named ``settings.prefix + spec.name``.

    Several processes may use it at once. Thread-safe with a client that is: those of ``connect``
    are, qdrant-client's in-memory mode is not.
    """

    folder = None

    def __init__(self, client: QdrantClient, spec: CollectionSpec, settings: IndexSettings) -> None:
        """Find the collection or create it; ``close`` closes ``client``.

        IndexMismatch where other models made it, StoreUnreachable where the server does not
        answer, StoreError where it refuses.
        """
        self.spec = spec
        self.name = settings.prefix + spec.name
        self._client = client
        self._settings = settings
        self._address = _without_login(settings.url) if settings.url else ":memory:"
        if not self._ask(client.collection_exists, self.name):
            self._create()
        info = self._ask(client.get_collection, self.name)
        self._check_manifest(info.config.metadata or {})
        self._update(info)

    def upsert(self, points: Sequence[PagePoint]) -> None:
        """Write points; a page that is there already is replaced.

        They are sent in requests of at most ``index.batch_mb``; a page that is larger, alone.
        """
        sized = ((self._point(point), self._size(point)) for point in points)
        for batch in _batches(sized, self._settings.batch_mb * 1_000_000):
            self._ask(self._client.upsert, self.name, batch, wait=True)

    def delete_document(self, document_id: str) -> None:
        """Remove a document's points; nothing happens where there are none."""
        models = _models()
        selector = models.FilterSelector(filter=_filter(Scope(None, (document_id,))))
        self._ask(self._client.delete, self.name, selector, wait=True)

    def delete(self, refs: Sequence[PageRef]) -> None:
        """Remove single pages' points; nothing happens where there are none."""
        if refs:
            selector = _models().PointIdsList(points=[point_id(ref) for ref in refs])
            self._ask(self._client.delete, self.name, selector, wait=True)

    def query(
        self,
        name: str,
        vector: Vector,
        *,
        limit: int,
        scope: Scope,
        prefetch: Prefetch | None = None,
    ) -> list[tuple[PageRef, float]]:
        """The best pages by the named vector's similarity, best first.

        With ``prefetch`` only pages that one of its vectors brings up are scored, exactly; one
        whose vectors are all empty counts as none. An empty ``vector`` finds nothing.
        """
        if is_empty(vector) or scope.empty:
            return []
        models = _models()
        spec, condition = self.spec.vectors[name], _filter(scope)
        # The scope must hold in every stage: candidates outside it would crowd out others.
        stages: list[models.Prefetch] = []
        if prefetch is not None:
            stages = [
                models.Prefetch(
                    query=_to_server(v, self.spec.vectors[first]),
                    using=first,
                    limit=prefetch.limit,
                    filter=condition,
                    params=_search_params(self.spec.vectors[first], scope, exact=False),
                )
                for first, v in prefetch.vectors
                if not is_empty(v)
            ]
        response = self._ask(
            self._client.query_points,
            self.name,
            query=_to_server(vector, spec),
            using=name,
            prefetch=stages or None,
            query_filter=condition,
            search_params=_search_params(spec, scope, exact=bool(stages)),
            limit=limit,
            with_payload=True,
        )
        return [
            (_ref(point.payload), score_from_stored(point.score, vector, spec))
            for point in response.points
        ]

    def vectors(self, ref: PageRef) -> Vectors:
        """A page's vectors, rounded as they are stored; none where the page is not there."""
        records = self._ask(
            self._client.retrieve, self.name, [point_id(ref)], with_payload=False, with_vectors=True
        )
        return self._vectors(records[0]) if records else {}

    def points(self, batch: int = 64) -> Iterator[list[PagePoint]]:
        """Every point with its vectors, a batch at a time, each once."""
        for records in self._scroll(batch, with_vectors=True):
            yield [
                PagePoint(
                    _ref(record.payload),
                    (record.payload or {})["collection"],
                    self._vectors(record),
                )
                for record in records
            ]

    def refs(self, batch: int = 1000) -> Iterator[tuple[str, PageRef]]:
        """Every point's tenant and page, without its vectors."""
        for records in self._scroll(batch, with_vectors=False):
            for record in records:
                yield (record.payload or {})["collection"], _ref(record.payload)

    def _scroll(self, batch: int, *, with_vectors: bool) -> Iterator[list[models.Record]]:
        offset = None
        while True:
            records, offset = self._ask(
                self._client.scroll,
                self.name,
                limit=batch,
                offset=offset,
                with_payload=True,
                with_vectors=with_vectors,
            )
            if records:
                yield records
            if offset is None:
                return

    def count(self, scope: Scope | None = None) -> int:
        """Points in the collection, or in a part of it."""
        if scope is not None and scope.empty:
            return 0
        condition = _filter(scope) if scope else None
        return self._ask(self._client.count, self.name, condition, exact=True).count

    def flush(self) -> None:
        """Have everything that was written on disk: the server sees to that."""

    def close(self) -> None:
        """Close the connections; what was written is safe."""
        self._client.close()

    def _create(self) -> None:
        settings = self._settings
        vectors, sparse = _vector_params(self.spec)
        try:
            self._ask(
                self._client.create_collection,
                self.name,
                vectors_config=vectors,
                sparse_vectors_config=sparse,
                shard_number=settings.shards,
                replication_factor=settings.replicas,
                on_disk_payload=True,
                metadata={_METADATA: self.spec.manifest()},
            )
        except StoreError:
            # Another process may have been first; what it made is checked like any other.
            if not self._ask(self._client.collection_exists, self.name):
                raise

    def _check_manifest(self, metadata: dict[str, Any]) -> None:
        found = metadata.get(_METADATA)
        if found is None:
            raise StoreError(
                f"the collection {self.name} at {self._address} has no manifest, so Pageglass did"
                " not make it, or the server is older than Qdrant 1.16: choose another index.prefix"
                " on a newer server"
            )
        if found != json.loads(json.dumps(self.spec.manifest())):
            raise IndexMismatch(
                f"the collection {self.name} was made by other models or settings: set another"
                " index.prefix and ingest the documents again, or remove it first: curl -X DELETE"
                f" {self._address}/collections/{self.name}"
            )

    def _update(self, info: models.CollectionInfo) -> None:
        """Add what is not there: a creation was cut short, or the settings have changed since."""
        models = _models()
        indexes = {
            "collection": models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            ),
            "document_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
            "page_index": models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER),
        }
        for field, schema in indexes.items():
            if field not in info.payload_schema:
                self._ask(self._client.create_payload_index, self.name, field, schema, wait=True)
        there = info.config.params.vectors
        changed = {
            name: models.VectorParamsDiff(
                quantization_config=_quantization(vector) or models.Disabled.DISABLED
            )
            for name, vector in self.spec.vectors.items()
            if isinstance(there, dict)
            and name in there
            and type(there[name].quantization_config) is not type(_quantization(vector))
        }
        if changed:
            self._ask(self._client.update_collection, self.name, vectors_config=changed)

    def _point(self, point: PagePoint) -> models.PointStruct:
        return _models().PointStruct(
            id=point.id,
            vector={
                name: _to_server(vector, self.spec.vectors[name])
                for name, vector in point.vectors.items()
                if not is_empty(vector)
            },
            payload={
                "collection": point.collection,
                "document_id": point.ref.document_id,
                "page_index": point.ref.index,
            },
        )

    def _size(self, point: PagePoint) -> int:
        """Bytes the point takes in a request, rather too many than too few."""
        grpc, size = self._settings.grpc, _POINT_BYTES
        for name, vector in point.vectors.items():
            number = _GRPC_BYTES if grpc else _JSON_BYTES[self.spec.vectors[name].datatype]
            if isinstance(vector, SparseVector):
                index = _GRPC_INDEX_BYTES if grpc else _JSON_INDEX_BYTES
                size += len(vector.indices) * (number + index)
            else:
                # Three more a row: its brackets and comma.
                size += vector.size * number + 3 * len(vector)
            size += len(name) + 32
        return size

    def _vectors(self, record: models.Record) -> Vectors:
        stored: Any = record.vector or {}
        return {name: from_stored(raw, self.spec.vectors[name]) for name, raw in stored.items()}

    def _ask(
        self,
        request: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """What the server answers; ``index.retries`` more tries, ever later, where that may help.

        A request that ran out of time had all it may have, and is not repeated.
        """
        for attempt in itertools.count():
            try:
                return request(*args, **kwargs)
            except Exception as error:
                failure = _failure(error, self._settings)
                if failure is None:
                    raise
                impatient = failure.pause > self._settings.timeout_seconds
                if not failure.again or impatient or attempt >= self._settings.retries:
                    message = f"the Qdrant server at {self._address} {failure.reason}"
                    raise failure.kind(message) from error
                longest = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
                jittered = random.uniform(longest / 2, longest)  # noqa: S311 - no secret
                pause = max(jittered, failure.pause)
            _log.info("%s %s; next try in %.1f s", self._address, failure.reason, pause)
            time.sleep(pause)
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request failed: what the server did, in words, and what that means for us.

    ``again`` says whether to try again, not sooner than ``pause`` seconds from now.
    """

    kind: type[StoreError]
    reason: str
    again: bool = False
    pause: float = 0.0


def _failure(error: Exception, settings: IndexSettings) -> _Failure | None:
    """What an exception of the client means; None where it is not about the server."""
    import grpc
    import httpx
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    late = _Failure(
        StoreUnreachable,
        f"did not answer within {math.ceil(settings.timeout_seconds)} s: see to its load, or raise"
        " index.timeout_seconds",
    )
    refused_key = _Failure(
        StoreError,
        "wants an API key: set index.api_key"
        if settings.api_key is None
        else "refuses the API key: correct index.api_key",
    )
    busy = "is overloaded: try again later, or raise index.retries"
    match error:
        case ResourceExhaustedResponse():
            return _Failure(StoreUnreachable, busy, again=True, pause=error.retry_after_s)
        case QdrantException():
            # Its time to retry after is a date.
            return _Failure(StoreUnreachable, busy, again=True)
        case UnexpectedResponse(status_code=401 | 403):
            return refused_key
        case UnexpectedResponse(status_code=429):
            return _Failure(StoreUnreachable, busy, again=True)
        case UnexpectedResponse() if (error.status_code or 0) >= 500:
            answer = f"answers {error.status_code}: {_message(error.content)}: see the server's log"
            after: str = error.headers.get("retry-after", "")
            pause = float(after) if after.isdigit() else 0.0
            return _Failure(StoreUnreachable, answer, again=True, pause=pause)
        case UnexpectedResponse():
            answer = f"refuses a request ({error.status_code}): {_message(error.content)}"
            return _Failure(StoreError, answer)
        case ResponseHandlingException(source=httpx.TimeoutException()):
            return late
        case ResponseHandlingException(source=httpx.TransportError()):
            return _unreachable(str(error.source))
        case ResponseHandlingException() | json.JSONDecodeError():
            return _Failure(StoreError, "does not answer like one: correct index.url")
        case grpc.RpcError():
            # Those of finished calls are grpc.Call, too.
            status: Any = error
            code, details = status.code(), status.details() or ""
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return late
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return refused_key
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return _Failure(StoreUnreachable, busy, again=True)
            if code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.UNKNOWN,
            ):
                return _unreachable(details)
            return _Failure(StoreError, f"refuses a request ({code.name}): {_line(details)}")
        case _:
            return None


def _unreachable(reason: str) -> _Failure:
    return _Failure(
        StoreUnreachable,
        f"cannot be reached ({_line(reason)}): start it, or correct index.url",
        again=True,
    )


def _message(content: bytes) -> str:
    """What an error response says, in one line: Qdrant's own words, or whatever stands there."""
    try:
        return _line(json.loads(content)["status"]["error"])
    except (ValueError, LookupError, TypeError):
        return _line(content.decode("utf-8", "replace"))


def _line(text: str) -> str:
    return " ".join(text.split())[:200] or "no reason given"


def _batches(
    sized: Iterable[tuple[models.PointStruct, int]], limit: int
) -> Iterator[list[models.PointStruct]]:
    """Points in batches of at most ``limit`` bytes; a larger one is a batch of its own."""
    batch: list[models.PointStruct] = []
    total = 0
    for point, size in sized:
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append(point)
        total += size
    if batch:
        yield batch


def _models() -> Any:
    # Imported late: the client takes a second that `pageglass --help` does not need.
    from qdrant_client.http import models

    return models


def _vector_params(
    spec: CollectionSpec,
) -> tuple[dict[str, models.VectorParams], dict[str, models.SparseVectorParams]]:
    models = _models()
    vectors: dict[str, models.VectorParams] = {}
    sparse: dict[str, models.SparseVectorParams] = {}
    for name, vector in spec.vectors.items():
        if vector.kind == "sparse":
            sparse[name] = models.SparseVectorParams(
                modifier=models.Modifier.IDF if vector.idf else None
            )
            continue
        multi = vector.kind == "multi"
        vectors[name] = models.VectorParams(
            size=vector.size,
            distance=models.Distance.DOT,
            datatype=models.Datatype(vector.datatype),
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            )
            if multi
            else None,
            # A graph over bags of vectors costs more than the few candidates they are asked for;
            # and they are what does not fit in memory.
            hnsw_config=models.HnswConfigDiff(m=0) if multi else None,
            on_disk=multi,
            quantization_config=_quantization(vector),
        )
    return vectors, sparse


def _quantization(spec: VectorSpec) -> Any:
    models = _models()
    if spec.quantization == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        )
    if spec.quantization == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _search_params(spec: VectorSpec, scope: Scope, *, exact: bool) -> models.SearchParams:
    models = _models()
    # How rare a word is elsewhere must not show in a tenant's scores. Servers before 1.19 pass it
    # over.
    own = _filter(scope) if spec.idf else None
    compressed = spec.quantization != "none" and not exact
    return models.SearchParams(
        exact=exact,
        idf=None if own is None else models.IdfCorpusParams(corpus=own),
        quantization=models.QuantizationSearchParams(
            ignore=not compressed,
            rescore=True if compressed else None,
            oversampling=OVERSAMPLING if compressed else None,
        ),
    )


def _filter(scope: Scope) -> models.Filter | None:
    models = _models()
    conditions: list[Any] = []
    for field, values in (("collection", scope.collections), ("document_id", scope.documents)):
        if values is not None:
            match = models.MatchAny(any=list(values))
            conditions.append(models.FieldCondition(key=field, match=match))
    return models.Filter(must=conditions) if conditions else None


def _to_server(vector: Vector, spec: VectorSpec) -> Any:
    if isinstance(vector, SparseVector):
        return _models().SparseVector(indices=list(vector.indices), values=list(vector.values))
    return to_stored(vector, spec).tolist()


def _ref(payload: dict[str, Any] | None) -> PageRef:
    payload = payload or {}
    return PageRef(payload["document_id"], payload["page_index"])


def _split(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        if split.scheme in ("http", "https") and split.hostname and split.port != 0:
            return split
    except ValueError:
        # A port that is no number.
        pass
    raise SettingsError("setting index.url: must be http://host:6333 or https://host:6333")


def _without_login(url: str) -> str:
    split = _split(url)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}".rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

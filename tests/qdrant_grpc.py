"""A Qdrant server on loopback that speaks gRPC: the in-memory client behind real channels."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from qdrant_client import QdrantClient
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc.collections_service_pb2_grpc import (
    CollectionsServicer,
    add_CollectionsServicer_to_server,
)
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server


@dataclass(slots=True)
class QdrantGrpc:
    """The server: its address as REST clients know it, the headers it was sent, and the status
    codes that its next requests meet, each with the seconds after which to retry."""

    url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    faults: deque[tuple[grpc.StatusCode, int]] = field(
        default_factory=deque[tuple[grpc.StatusCode, int]]
    )


@contextmanager
def serve_grpc() -> Generator[QdrantGrpc]:
    """Serve on a free port, the one after that of ``url``, until the block is left."""
    client, lock, qdrant = QdrantClient(":memory:"), threading.Lock(), QdrantGrpc()
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[_Interceptor(qdrant)])
    add_CollectionsServicer_to_server(_Collections(client, lock), server)
    add_PointsServicer_to_server(_Points(client, lock), server)
    qdrant.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0') - 1}"
    server.start()
    try:
        yield qdrant
    finally:
        server.stop(None).wait()


class _Interceptor(grpc.ServerInterceptor):
    def __init__(self, qdrant: QdrantGrpc) -> None:
        self.qdrant = qdrant

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        self.qdrant.headers.append(dict(handler_call_details.invocation_metadata))
        if not self.qdrant.faults:
            return continuation(handler_call_details)
        code, after = self.qdrant.faults.popleft()

        def fail(_: Any, context: Any) -> None:
            if after:
                context.set_trailing_metadata((("retry-after", str(after)),))
            context.abort(code, "a fault of the test")

        # The message is bytes, whatever it means.
        return grpc.unary_unary_rpc_method_handler(fail)


class _Collections(CollectionsServicer):
    def __init__(self, client: QdrantClient, lock: threading.Lock) -> None:
        self.client, self.lock = client, lock

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = self.client.collection_exists(request.collection_name)
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    def Create(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.client.create_collection(
                request.collection_name,
                vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
                sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(
                    request.sparse_vectors_config
                ),
                metadata=GrpcToRest.convert_payload(request.metadata),
            )
        return messages.CollectionOperationResponse(result=True)

    def Get(self, request: Any, context: Any) -> Any:
        info = self.client.get_collection(request.collection_name)
        # Fields that the in-memory engine leaves out and the protocol does not.
        info.config.params.shard_number = info.config.params.replication_factor = 1
        info.config.params.write_consistency_factor = 1
        info.config.params.on_disk_payload = True
        info.segments_count = 1
        return messages.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def Update(self, request: Any, context: Any) -> Any:
        changes = GrpcToRest.convert_vectors_config_diff(request.vectors_config)
        result = self.client.update_collection(request.collection_name, vectors_config=changes)
        return messages.CollectionOperationResponse(result=result)


class _Points(PointsServicer):
    def __init__(self, client: QdrantClient, lock: threading.Lock) -> None:
        self.client, self.lock = client, lock

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return _done()

    def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        with self.lock:
            self.client.upsert(request.collection_name, points)
        return _done()

    def Delete(self, request: Any, context: Any) -> Any:
        with self.lock:
            selector = GrpcToRest.convert_points_selector(request.points)
            self.client.delete(request.collection_name, selector)
        return _done()

    def Query(self, request: Any, context: Any) -> Any:
        with self.lock:
            response = self.client.query_points(
                request.collection_name,
                query=GrpcToRest.convert_query(request.query),
                using=request.using,
                prefetch=[GrpcToRest.convert_prefetch_query(stage) for stage in request.prefetch],
                query_filter=_filter(request),
                search_params=GrpcToRest.convert_search_params(request.params),
                limit=request.limit,
                with_payload=True,
            )
        points = [RestToGrpc.convert_scored_point(point) for point in response.points]
        return messages.QueryResponse(result=points)

    def Get(self, request: Any, context: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(id) for id in request.ids]
        with self.lock:
            records = self.client.retrieve(request.collection_name, ids, with_vectors=True)
        return messages.GetResponse(result=[RestToGrpc.convert_record(of) for of in records])

    def Scroll(self, request: Any, context: Any) -> Any:
        offset = request.offset if request.HasField("offset") else None
        with self.lock:
            result: Any = self.client.scroll(
                request.collection_name,
                limit=request.limit,
                offset=GrpcToRest.convert_point_id(offset) if offset else None,
                with_vectors=True,
            )
        records, after = result
        return messages.ScrollResponse(
            result=[RestToGrpc.convert_record(of) for of in records],
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    def Count(self, request: Any, context: Any) -> Any:
        with self.lock:
            found = self.client.count(request.collection_name, _filter(request))
        return messages.CountResponse(result=messages.CountResult(count=found.count))


def _filter(request: Any) -> Any:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _done() -> Any:
    status = messages.UpdateStatus.Completed
    return messages.PointsOperationResponse(result=messages.UpdateResult(status=status))

"""HTTP routes, one file a noun. Plain ``def``: their work blocks, so it runs on worker threads."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from api.problems import request_id_of
from api.services import Services


def _services(request: Request) -> Services:
    return request.app.state.services


def _request_id(request: Request) -> str:
    return request_id_of(request.scope)


OpenServices = Annotated[Services, Depends(_services)]
RequestId = Annotated[str, Depends(_request_id)]
DocumentId = Annotated[str, Path(max_length=64)]
PageNumber = Annotated[
    # Bounded for the database's sake; whether there is such a page is the catalog's to say.
    int,
    Path(ge=-(2**31), lt=2**31, description="1-based position in the PDF."),
]

"""Values read off pages, in the shape of a JSON schema."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api import problems
from api.routes import AskedQuestions, AskView, RequestId
from pageglass.wire import ExtractRequest, ExtractResponse

router = APIRouter(tags=["extract"])


@router.post(
    "/extract",
    responses={501: problems.described("No model of this profile reads values off pages.")},
)
async def extract(
    wanted: ExtractRequest,
    view: AskView,
    questions: AskedQuestions,
    request: Request,
    request_id: RequestId,
) -> ExtractResponse:
    """Read values off documents or pages, each with the words it rests on and where they stand.

    What no page says is null. Closing the connection calls the work off, down to the model.
    """
    return await questions.answer(
        request.receive,
        lambda: ExtractResponse.of(view.extract(wanted), request_id),
        view.access.asker(),
    )

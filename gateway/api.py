"""The OpenAI-compatible endpoints, as django-ninja operations; gateway.asgi calls them without middleware."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponseBase
from ninja import NinjaAPI, Schema
from ninja.openapi.schema import OpenAPISchema

from billing import feedback
from billing.entries import LedgerUnavailableError
from billing.idempotency import Forgotten
from gateway import google_api
from gateway.admission import check_model
from gateway.errors import IdempotencyInUseError, LedgerDownError, NotFoundError
from gateway.feedback_document import FeedbackBody, FeedbackDocument, feedback_document, read_feedback
from gateway.idempotency import HEADER_CHARACTERS_MAX
from gateway.lifespan import Gateway, wall_clock
from gateway.operations import count_headers, counted, create, create_translated, entered, usable_models
from gateway.request_document import RequestDocument, load_request
from gateway.responses import JsonResponse
from gateway.schemas import (
    ChatCompletionBody,
    CompletionBody,
    CountedMessagesBody,
    CountedResponsesBody,
    EmbeddingsBody,
    Message,
    MessagesBody,
    ResponsesBody,
)
from gateway.slim import Operations, SlimRequest, is_google
from gateway.surfaces.messages import MESSAGES
from gateway.surfaces.responses import RESPONSES
from gateway.usage_document import UsageDocument, load_usage, read_question


class DescribedAPI(NinjaAPI):
    """Ninja's, with what our hand-decoded bodies need in the OpenAPI document."""

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        document = super().get_openapi_schema(**options)
        components = document["components"]
        components["schemas"]["Message"] = Message.model_json_schema()
        usage = UsageDocument.model_json_schema(ref_template=REFERENCE)
        asked = RequestDocument.model_json_schema(ref_template=REFERENCE)
        components["schemas"].update({**usage["$defs"], **asked["$defs"]})
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        return document


api = DescribedAPI(
    title="Tollgate",
    version="1",
    description="OpenAI-compatible endpoints. Send your key as `Authorization: Bearer tg_…`.",
    urls_namespace="v1",
    docs_url=None,
)
OWNED_BY = "tollgate"
UNREADABLE = "The ledger cannot be read now; ask again."
Result = TypeVar("Result")
REFERENCE = "#/components/schemas/{model}"


def _content(schema: type[Schema]) -> dict[str, Any]:
    described = schema.model_json_schema(ref_template=REFERENCE)
    described.pop("$defs", None)
    return {"content": {"application/json": {"schema": described}}}


def _described(schema: type[Schema]) -> dict[str, Any]:
    """The body for the OpenAPI document; it is decoded by hand, from the bytes."""
    return {
        "requestBody": {"required": True, **_content(schema)},
        "security": [{"bearer": []}],
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same request with the same key again gets the stored answer.",
                "schema": {"type": "string", "minLength": 1, "maxLength": HEADER_CHARACTERS_MAX},
            }
        ],
    }


USAGE_DESCRIBED: dict[str, Any] = {
    "security": [{"bearer": []}],
    "parameters": [
        {"name": "group", "in": "query", "schema": {"type": "string", "enum": ["day", "model"]}},
        {"name": "from", "in": "query", "schema": {"type": "string"}},
        {"name": "to", "in": "query", "schema": {"type": "string"}},
    ],
    "responses": {200: _content(UsageDocument)},
}

REQUEST_DESCRIBED: dict[str, Any] = {
    "security": [{"bearer": []}],
    "responses": {200: _content(RequestDocument)},
}


FEEDBACK_DESCRIBED: dict[str, Any] = {
    "requestBody": {"required": True, **_content(FeedbackBody)},
    "security": [{"bearer": []}],
    "responses": {200: _content(FeedbackDocument)},
}


@api.post("/chat/completions", openapi_extra=_described(ChatCompletionBody), tags=["completions"])
async def create_chat_completion(request: HttpRequest) -> HttpResponseBase:
    """Answer a conversation, plain or as a stream."""
    return await create(request, surface="chat")


@api.post("/completions", openapi_extra=_described(CompletionBody), tags=["completions"])
async def create_completion(request: HttpRequest) -> HttpResponseBase:
    """Continue a prompt, plain or as a stream."""
    return await create(request, surface="completions")


@api.post("/embeddings", openapi_extra=_described(EmbeddingsBody), tags=["embeddings"])
async def create_embeddings(request: HttpRequest) -> HttpResponseBase:
    """Turn texts into vectors."""
    return await create(request, surface="embeddings")


@api.post("/messages", openapi_extra=_described(MessagesBody), tags=["messages"])
async def create_message(request: HttpRequest) -> HttpResponseBase:
    """Answer a conversation in the words of Anthropic's Messages API, plain or as a stream."""
    return await create_translated(request, surface=MESSAGES)


@api.post("/messages/count_tokens", openapi_extra=_described(CountedMessagesBody), tags=["messages"])
async def count_message_tokens(request: HttpRequest) -> HttpResponseBase:
    """How many tokens the prompt of a message has; a header says whether they are counted or estimated."""
    count = await counted(request, surface=MESSAGES)
    assert isinstance(request, SlimRequest)
    headers = (*count_headers(count), ("request-id", request.request_id))
    return JsonResponse({"input_tokens": count.tokens}, headers=headers)


@api.post("/responses/input_tokens", openapi_extra=_described(CountedResponsesBody), tags=["responses"])
async def count_response_tokens(request: HttpRequest) -> HttpResponseBase:
    """The same of a response's."""
    count = await counted(request, surface=RESPONSES)
    document = {"object": "response.input_tokens", "input_tokens": count.tokens}
    return JsonResponse(document, headers=count_headers(count))


@api.post("/responses", openapi_extra=_described(ResponsesBody), tags=["responses"])
async def create_response(request: HttpRequest) -> HttpResponseBase:
    """Answer in the words of OpenAI's Responses API, plain or as a stream; nothing is stored."""
    return await create_translated(request, surface=RESPONSES)


@api.api_operation(["GET", "POST", "DELETE"], "/responses/{path:response}", include_in_schema=False)
async def find_response(request: HttpRequest, response: str) -> HttpResponseBase:
    """There never is one: say why."""
    entered(request)
    raise NotFoundError(
        f"There is no response {response}: answers are not stored here, whatever `store` said."
    )


# Called as they are by the slim path: ninja finds nothing to do for them, at the price of a routing decision.
COMPLETIONS: Operations = {
    ("/v1/chat/completions", "POST"): create_chat_completion,
    ("/v1/completions", "POST"): create_completion,
    ("/v1/embeddings", "POST"): create_embeddings,
    ("/v1/messages", "POST"): create_message,
    ("/v1/responses", "POST"): create_response,
}


@api.get("/models", tags=["models"], openapi_extra={"security": [{"bearer": []}]})
async def list_models(request: HttpRequest) -> HttpResponseBase:
    """The models that the key may use."""
    assert isinstance(request, SlimRequest)
    if is_google(request.scope):
        return await google_api.list_models(request)
    return JsonResponse({"object": "list", "data": [_model(name) for name in usable_models(request)]})


@api.get("/models/{path:model}", tags=["models"], openapi_extra={"security": [{"bearer": []}]})
async def get_model(request: HttpRequest, model: str) -> HttpResponseBase:
    """One model, if the key may use it."""
    assert isinstance(request, SlimRequest)
    if is_google(request.scope):
        return await google_api.get_model(request, name=model)
    gateway, principal = entered(request)
    check_model(principal=principal, model=model, snapshot=gateway.keeper.snapshot)
    return JsonResponse(_model(model))


@api.post("/models/{path:model}", include_in_schema=False)
async def call_model(request: HttpRequest, model: str) -> HttpResponseBase:
    """Google's clients ask here by default for what is at /v1beta."""
    return await google_api.call_model(request, name=model)


@api.get("/usage", tags=["usage"], openapi_extra=USAGE_DESCRIBED)
async def get_usage(request: HttpRequest) -> HttpResponseBase:
    """The key's own spend, what its budgets have left, and its limits; with `group` also its usage."""
    gateway, principal = entered(request)
    assert isinstance(request, SlimRequest)
    now = wall_clock()
    question = read_question(query=request.scope["query_string"], now=now)
    load = partial(load_usage, principal=principal, question=question, now=now)
    return JsonResponse(await _of_ledger(gateway, load, refusal=UNREADABLE))


@api.get("/requests/{request_id}", tags=["usage"], openapi_extra=REQUEST_DESCRIBED)
async def get_request(request: HttpRequest, request_id: str) -> HttpResponseBase:
    """What became of a request of the key's team, and why each attempt went where it did."""
    gateway, principal = entered(request)
    load = partial(load_request, request_id=request_id, principal=principal)
    return JsonResponse(await _of_ledger(gateway, load, refusal=UNREADABLE))


@api.post("/feedback", tags=["feedback"], openapi_extra=FEEDBACK_DESCRIBED)
async def put_feedback(request: HttpRequest) -> HttpResponseBase:
    """Say how good the answer to a request was; saying it again replaces what was said."""
    gateway, principal = entered(request)
    assert isinstance(request, SlimRequest)
    said = read_feedback(request.body, depth_max=request.json_depth_max)
    put = partial(
        feedback.put_feedback,
        principal=principal,
        request_id=said.request_id,
        score=said.score,
        comment=said.comment,
        now=wall_clock(),
    )
    kept = await _of_ledger(gateway, put, refusal="The ledger cannot keep this now; send it again.")
    if kept is None:
        raise NotFoundError(
            "This key's team has no such request: send the answer's x-request-id, once it is complete."
        )
    return JsonResponse(feedback_document(kept))


@api.delete("/idempotency/{path:key}", tags=["idempotency"], openapi_extra={"security": [{"bearer": []}]})
async def forget_idempotency_key(request: HttpRequest, key: str) -> HttpResponseBase:
    """Delete the answer that is kept for an Idempotency-Key of this API key."""
    gateway, principal = entered(request)
    forgotten = await gateway.answers.forget(key_id=principal.key_id, key=key)
    if forgotten is Forgotten.RUNNING:
        raise IdempotencyInUseError("The request with this key still runs.", original_request_id="")
    if forgotten is Forgotten.UNKNOWN:
        raise NotFoundError("Nothing is kept under this key.")
    return JsonResponse({"object": "idempotency_key", "key": key, "deleted": True})


async def _of_ledger(gateway: Gateway, work: Callable[[], Result], *, refusal: str) -> Result:
    """What reports' threads make of it; LedgerDownError in these words where the ledger cannot be reached."""
    try:
        return await gateway.report_threads.run(work)
    except LedgerUnavailableError as error:
        raise LedgerDownError(refusal) from error


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNED_BY}

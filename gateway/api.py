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
from billing.principals import Principal
from gateway.admission import check_model
from gateway.arms import in_its_arm
from gateway.authentication import authenticate
from gateway.completion import CompletionRequest
from gateway.errors import GatewayError, IdempotencyInUseError, LedgerDownError, NotFoundError
from gateway.feedback_document import FeedbackBody, FeedbackDocument, feedback_document, read_feedback
from gateway.idempotency import HEADER_CHARACTERS_MAX, KeptAnswer, RecordedOutbox, idempotency_key
from gateway.lifespan import Gateway, wall_clock
from gateway.outbox import Outbox
from gateway.request_document import RequestDocument, load_request
from gateway.responses import CompletionResponse, JsonResponse, KeptResponse
from gateway.schemas import (
    ChatCompletionBody,
    CompletionBody,
    EmbeddingsBody,
    Message,
    decode_completion,
)
from gateway.slim import Operations, SlimRequest
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
    return await _create(request, surface="chat")


@api.post("/completions", openapi_extra=_described(CompletionBody), tags=["completions"])
async def create_completion(request: HttpRequest) -> HttpResponseBase:
    """Continue a prompt, plain or as a stream."""
    return await _create(request, surface="completions")


@api.post("/embeddings", openapi_extra=_described(EmbeddingsBody), tags=["embeddings"])
async def create_embeddings(request: HttpRequest) -> HttpResponseBase:
    """Turn texts into vectors."""
    return await _create(request, surface="embeddings")


# Called as they are by the slim path: ninja finds nothing to do for them, at the price of a routing decision.
COMPLETIONS: Operations = {
    ("/v1/chat/completions", "POST"): create_chat_completion,
    ("/v1/completions", "POST"): create_completion,
    ("/v1/embeddings", "POST"): create_embeddings,
}


@api.get("/models", tags=["models"], openapi_extra={"security": [{"bearer": []}]})
async def list_models(request: HttpRequest) -> HttpResponseBase:
    """The models that the key may use."""
    gateway, principal = _entered(request)
    names = [name for name in gateway.keeper.snapshot.fleet.routes if _may_use(principal, name)]
    return JsonResponse({"object": "list", "data": [_model(name) for name in names]})


@api.get("/models/{path:model}", tags=["models"], openapi_extra={"security": [{"bearer": []}]})
async def get_model(request: HttpRequest, model: str) -> HttpResponseBase:
    """One model, if the key may use it."""
    gateway, principal = _entered(request)
    check_model(principal=principal, model=model, snapshot=gateway.keeper.snapshot)
    return JsonResponse(_model(model))


@api.get("/usage", tags=["usage"], openapi_extra=USAGE_DESCRIBED)
async def get_usage(request: HttpRequest) -> HttpResponseBase:
    """The key's own spend, what its budgets have left, and its limits; with `group` also its usage."""
    gateway, principal = _entered(request)
    assert isinstance(request, SlimRequest)
    now = wall_clock()
    question = read_question(query=request.scope["query_string"], now=now)
    load = partial(load_usage, principal=principal, question=question, now=now)
    return JsonResponse(await _of_ledger(gateway, load, refusal=UNREADABLE))


@api.get("/requests/{request_id}", tags=["usage"], openapi_extra=REQUEST_DESCRIBED)
async def get_request(request: HttpRequest, request_id: str) -> HttpResponseBase:
    """What became of a request of the key's team, and why each attempt went where it did."""
    gateway, principal = _entered(request)
    load = partial(load_request, request_id=request_id, principal=principal)
    return JsonResponse(await _of_ledger(gateway, load, refusal=UNREADABLE))


@api.post("/feedback", tags=["feedback"], openapi_extra=FEEDBACK_DESCRIBED)
async def put_feedback(request: HttpRequest) -> HttpResponseBase:
    """Say how good the answer to a request was; saying it again replaces what was said."""
    gateway, principal = _entered(request)
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
    gateway, principal = _entered(request)
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


async def _create(request: HttpRequest, *, surface: str) -> HttpResponseBase:
    assert isinstance(request, SlimRequest)
    gateway, principal = _entered(request)
    completion = decode_completion(
        surface=surface,
        body=request.body,
        depth_max=request.json_depth_max,
        needs_priced=any(budget.is_hard for budget in principal.budgets),
        headers=request.scope["headers"],
        placement=principal.placement,
    )
    completion = in_its_arm(
        completion,
        arms=gateway.keeper.snapshot.arms,
        key_id=principal.key_id,
        headers=request.scope["headers"],
        now_s=wall_clock().timestamp(),
    )
    claimed: RecordedOutbox | None = None
    key = idempotency_key(request.scope["headers"])
    if key is not None and gateway.answers.is_enabled:
        entered = await gateway.answers.enter(
            key_id=principal.key_id,
            key=key,
            path=request.path,
            body=request.body,
            request_id=request.request_id,
        )
        if isinstance(entered, KeptAnswer):
            return KeptResponse(entered)
        claimed = entered
    outbox = await _served(request, gateway, principal, completion, claimed)
    request.on_disconnect(outbox.abandon)
    return CompletionResponse(await outbox.reply(), outbox)


async def _served(
    request: SlimRequest,
    gateway: Gateway,
    principal: Principal,
    completion: CompletionRequest,
    claimed: RecordedOutbox | None,
) -> Outbox:
    """The outbox of the started answer; a key that was claimed for a request that is refused is freed."""
    try:
        return await gateway.pipeline.serve(
            principal=principal,
            request=completion,
            snapshot=gateway.keeper.snapshot,
            request_id=request.request_id,
            outbox=claimed,
        )
    except GatewayError as refusal:
        if claimed is None:
            raise
        # It is told once the key is free.
        claimed.fail(refusal)
        return claimed
    except BaseException:
        if claimed is not None:
            claimed.close()
        raise


def _entered(request: HttpRequest) -> tuple[Gateway, Principal]:
    assert isinstance(request, SlimRequest)
    gateway: Gateway = request.gateway
    principals = gateway.keeper.snapshot.principals
    headers = request.scope["headers"]
    return gateway, authenticate(headers=headers, principals=principals, now=wall_clock())


def _may_use(principal: Principal, model: str) -> bool:
    return principal.allowed_models is None or model in principal.allowed_models


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNED_BY}

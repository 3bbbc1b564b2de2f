"""The OpenAI-compatible endpoints, as django-ninja operations; gateway.asgi calls them without middleware."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import orjson
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
from gateway.outbox import Headers, Outbox
from gateway.portable_chat import portable_chat
from gateway.request_document import RequestDocument, load_request
from gateway.responses import CompletionResponse, JsonResponse, KeptResponse
from gateway.schemas import (
    ChatCompletionBody,
    CompletionBody,
    CountedMessagesBody,
    CountedResponsesBody,
    EmbeddingsBody,
    Message,
    MessagesBody,
    ResponsesBody,
    decode_completion,
    decode_object,
    read_completion,
)
from gateway.slim import Operations, SlimRequest
from gateway.surface_answers import PutBack
from gateway.surfaces.messages import MESSAGES
from gateway.surfaces.responses import RESPONSES
from gateway.surfaces.translation import Circumstances, Surface, Translation
from gateway.token_counts import TokenCount
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
COUNT_HEADER = "x-gateway-token-count"
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


@api.post("/messages", openapi_extra=_described(MessagesBody), tags=["messages"])
async def create_message(request: HttpRequest) -> HttpResponseBase:
    """Answer a conversation in the words of Anthropic's Messages API, plain or as a stream."""
    return await _create_translated(request, surface=MESSAGES)


@api.post("/messages/count_tokens", openapi_extra=_described(CountedMessagesBody), tags=["messages"])
async def count_message_tokens(request: HttpRequest) -> HttpResponseBase:
    """How many tokens the prompt of a message has; a header says whether they are counted or estimated."""
    count = await _counted(request, surface=MESSAGES)
    assert isinstance(request, SlimRequest)
    headers = (*_count_headers(count), ("request-id", request.request_id))
    return JsonResponse({"input_tokens": count.tokens}, headers=headers)


@api.post("/responses/input_tokens", openapi_extra=_described(CountedResponsesBody), tags=["responses"])
async def count_response_tokens(request: HttpRequest) -> HttpResponseBase:
    """The same of a response's."""
    count = await _counted(request, surface=RESPONSES)
    document = {"object": "response.input_tokens", "input_tokens": count.tokens}
    return JsonResponse(document, headers=_count_headers(count))


@api.post("/responses", openapi_extra=_described(ResponsesBody), tags=["responses"])
async def create_response(request: HttpRequest) -> HttpResponseBase:
    """Answer in the words of OpenAI's Responses API, plain or as a stream; nothing is stored."""
    return await _create_translated(request, surface=RESPONSES)


@api.api_operation(["GET", "POST", "DELETE"], "/responses/{path:response}", include_in_schema=False)
async def find_response(request: HttpRequest, response: str) -> HttpResponseBase:
    """There never is one: say why."""
    _entered(request)
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
    answer = await _answered(request, gateway, principal, completion)
    if isinstance(answer, KeptAnswer):
        return KeptResponse(answer)
    return CompletionResponse(await answer.reply(), answer)


async def _create_translated(request: HttpRequest, *, surface: Surface) -> HttpResponseBase:
    """Answer another API's request as the chat completion that asks for the same."""
    assert isinstance(request, SlimRequest)
    gateway, principal = _entered(request)
    translation = surface.translate(decode_object(request.body, depth_max=request.json_depth_max))
    completion = _completion_of(translation, request=request, principal=principal)
    answer = await _answered(request, gateway, principal, completion)
    circumstances = Circumstances(
        request_id=answer.request_id if isinstance(answer, KeptAnswer) else request.request_id,
        model=completion.model,
        prompt_tokens_estimate=completion.profile.prompt_tokens_estimate,
    )
    put_back = PutBack(translation=translation, circumstances=circumstances)
    if isinstance(answer, KeptAnswer):
        more = surface.more_headers(answer.headers, request.request_id, wall_clock())
        return KeptResponse(put_back.kept(answer, more_headers=more))
    reply = await answer.reply()
    more = surface.more_headers(reply.headers, request.request_id, wall_clock())
    return CompletionResponse(put_back.reply(reply, more_headers=more), put_back.outbox(answer))


async def _counted(request: HttpRequest, *, surface: Surface) -> TokenCount:
    """The tokens of the prompt of a request, which need not say how long its answer may be."""
    assert isinstance(request, SlimRequest)
    gateway, principal = _entered(request)
    document = decode_object(request.body, depth_max=request.json_depth_max)
    translation = surface.translate({**surface.count_defaults, **document})
    completion = _completion_of(translation, request=request, principal=principal)
    snapshot = gateway.keeper.snapshot
    check_model(principal=principal, model=completion.model, snapshot=snapshot)
    return await gateway.token_counter.count(completion, snapshot=snapshot, request_id=request.request_id)


def _completion_of(
    translation: Translation, *, request: SlimRequest, principal: Principal
) -> CompletionRequest:
    return read_completion(
        surface="chat",
        document=translation.document,
        body=orjson.dumps(portable_chat(translation.document)),
        needs_priced=any(budget.is_hard for budget in principal.budgets),
        headers=request.scope["headers"],
        placement=principal.placement,
        is_translated=True,
    )


async def _answered(
    request: SlimRequest, gateway: Gateway, principal: Principal, completion: CompletionRequest
) -> Outbox | KeptAnswer:
    """The outbox of the started answer, or the answer that is kept for the request's Idempotency-Key."""
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
            return entered
        claimed = entered
    outbox = await _served(request, gateway, principal, completion, claimed)
    request.on_disconnect(outbox.abandon)
    return outbox


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
            work=request.work,
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


def _count_headers(count: TokenCount) -> Headers:
    if not count.cluster:
        return ((COUNT_HEADER, "estimate"),)
    return ((COUNT_HEADER, "exact"), ("x-gateway-cluster", count.cluster))


def _may_use(principal: Principal, model: str) -> bool:
    return principal.allowed_models is None or model in principal.allowed_models


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNED_BY}

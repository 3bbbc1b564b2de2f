"""What the operations of all APIs share: who asks, and a request from its bytes to the started answer."""

from collections.abc import Mapping
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponseBase

from billing.principals import Principal
from gateway.admission import check_model
from gateway.arms import in_its_arm
from gateway.authentication import authenticate
from gateway.completion import CompletionRequest
from gateway.errors import GatewayError
from gateway.idempotency import KeptAnswer, RecordedOutbox, idempotency_key
from gateway.lifespan import Gateway, wall_clock
from gateway.outbox import Headers, Outbox
from gateway.portable_chat import portable_chat
from gateway.responses import CompletionResponse, KeptResponse
from gateway.schemas import decode_completion, decode_object, read_completion
from gateway.slim import SlimRequest
from gateway.surface_answers import PutBack
from gateway.surfaces.translation import Circumstances, Surface, Translation
from gateway.token_counts import TokenCount

COUNT_HEADER = "x-gateway-token-count"
IN_THE_BODY: Mapping[str, Any] = {}


async def create(request: HttpRequest, *, surface: str) -> HttpResponseBase:
    """Answer a request that is OpenAI's already; raises the GatewayError of its refusal."""
    assert isinstance(request, SlimRequest)
    gateway, principal = entered(request)
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


async def create_translated(
    request: HttpRequest, *, surface: Surface, path: Mapping[str, Any] = IN_THE_BODY
) -> HttpResponseBase:
    """Answer another API's request as the chat completion that asks for the same.

    `path` are members that this API has in the path.
    """
    assert isinstance(request, SlimRequest)
    gateway, principal = entered(request)
    document = decode_object(request.body, depth_max=request.json_depth_max)
    translation = surface.translate({**document, **path})
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
    said = put_back.reply(reply, more_headers=more)
    return CompletionResponse(said, answer if said.body is not None else put_back.outbox(answer))


async def counted(
    request: HttpRequest, *, surface: Surface, path: Mapping[str, Any] = IN_THE_BODY
) -> TokenCount:
    """The tokens of the prompt of a request, which need not say how long its answer may be."""
    assert isinstance(request, SlimRequest)
    gateway, principal = entered(request)
    document = decode_object(request.body, depth_max=request.json_depth_max)
    translation = surface.translate({**surface.count_defaults, **document, **path})
    completion = _completion_of(translation, request=request, principal=principal)
    snapshot = gateway.keeper.snapshot
    check_model(principal=principal, model=completion.model, snapshot=snapshot)
    return await gateway.token_counter.count(completion, snapshot=snapshot, request_id=request.request_id)


def _completion_of(
    translation: Translation, *, request: SlimRequest, principal: Principal
) -> CompletionRequest:
    is_chat = translation.surface == "chat"
    return read_completion(
        surface=translation.surface,
        document=translation.document,
        body=orjson.dumps(portable_chat(translation.document) if is_chat else translation.document),
        needs_priced=any(budget.is_hard for budget in principal.budgets),
        headers=request.scope["headers"],
        placement=principal.placement,
        is_translated=is_chat,
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


def entered(request: HttpRequest) -> tuple[Gateway, Principal]:
    """Who asks; raises InvalidApiKeyError."""
    assert isinstance(request, SlimRequest)
    gateway: Gateway = request.gateway
    principals = gateway.keeper.snapshot.principals
    headers = request.scope["headers"]
    return gateway, authenticate(headers=headers, principals=principals, now=wall_clock())


def count_headers(count: TokenCount) -> Headers:
    """Whether the tokens are counted or estimated, and by whom."""
    if not count.cluster:
        return ((COUNT_HEADER, "estimate"),)
    return ((COUNT_HEADER, "exact"), ("x-gateway-cluster", count.cluster))


def usable_models(request: HttpRequest) -> list[str]:
    """The models that the key may use; raises InvalidApiKeyError."""
    gateway, principal = entered(request)
    allowed = principal.allowed_models
    return [name for name in gateway.keeper.snapshot.fleet.routes if allowed is None or name in allowed]

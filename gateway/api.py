"""The OpenAI-compatible endpoints, as django-ninja operations; gateway.asgi calls them without middleware."""

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from ninja import NinjaAPI, Schema
from ninja.openapi.schema import OpenAPISchema

from billing.principals import Principal
from gateway.admission import check_model
from gateway.authentication import authenticate
from gateway.lifespan import Gateway, wall_clock
from gateway.responses import CompletionResponse, JsonResponse
from gateway.schemas import (
    ChatCompletionBody,
    CompletionBody,
    EmbeddingsBody,
    Message,
    decode_completion,
)
from gateway.slim import SlimRequest


class DescribedAPI(NinjaAPI):
    """Ninja's, with what our hand-decoded bodies need in the OpenAPI document."""

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        document = super().get_openapi_schema(**options)
        components = document["components"]
        components["schemas"]["Message"] = Message.model_json_schema()
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


def _described(schema: type[Schema]) -> dict[str, Any]:
    """The body for the OpenAPI document; it is decoded by hand, from the bytes."""
    described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    described.pop("$defs", None)
    content = {"application/json": {"schema": described}}
    return {"requestBody": {"required": True, "content": content}, "security": [{"bearer": []}]}


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


async def _create(request: HttpRequest, *, surface: str) -> HttpResponseBase:
    assert isinstance(request, SlimRequest)
    gateway, principal = _entered(request)
    completion = decode_completion(
        surface=surface,
        body=request.body,
        depth_max=request.json_depth_max,
        needs_priced=any(budget.is_hard for budget in principal.budgets),
    )
    outbox = gateway.pipeline.serve(
        principal=principal,
        request=completion,
        snapshot=gateway.keeper.snapshot,
        request_id=request.request_id,
    )
    request.on_disconnect(outbox.abandon)
    return CompletionResponse(await outbox.reply(), outbox)


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

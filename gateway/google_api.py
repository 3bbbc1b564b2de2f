"""The paths of Google's Gemini API, as django-ninja operations; gateway.asgi calls them without middleware.

https://ai.google.dev/api: the model and what to do with it stand in the path.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from django.http import HttpRequest, HttpResponseBase
from ninja import NinjaAPI

from gateway.admission import check_model
from gateway.errors import InvalidApiKeyError, InvalidRequestError, NotFoundError
from gateway.operations import count_headers, counted, create_translated, entered, usable_models
from gateway.responses import JsonResponse
from gateway.slim import SlimRequest
from gateway.surfaces.gemini import BATCH_EMBED, COUNT, EMBED, GENERATE

api = NinjaAPI(
    title="Tollgate",
    version="1",
    description="Google's Gemini API. Send your key as `x-goog-api-key: tg_…`.",
    urls_namespace="v1beta",
    docs_url=None,
    openapi_url=None,
)
METHODS = ("generateContent", "countTokens", "batchEmbedContents")
KEY_IN_URL = "Send your API key as `x-goog-api-key: tg_…`: in a URL it would stand in the logs of each proxy."


@api.get("/models")
async def list_models(request: HttpRequest) -> HttpResponseBase:
    """The models that the key may use, all on one page."""
    _check_query(request)
    return JsonResponse({"models": [_model(name) for name in usable_models(request)]})


@api.get("/models/{path:name}")
async def get_model(request: HttpRequest, name: str) -> HttpResponseBase:
    """One model, if the key may use it."""
    _check_query(request)
    gateway, principal = entered(request)
    check_model(principal=principal, model=name, snapshot=gateway.keeper.snapshot)
    return JsonResponse(_model(name))


@api.post("/models/{path:name}")
async def call_model(request: HttpRequest, name: str) -> HttpResponseBase:
    """`MODEL:METHOD`: do that with this model."""
    _check_query(request)
    model, _, method = name.rpartition(":")
    operation = OPERATIONS.get(method)
    if operation is None or not model:
        entered(request)
        raise NotFoundError(
            f"There is no method {name!r}: POST models/MODEL:METHOD, one of {', '.join(OPERATIONS)}."
        )
    return await operation(request, {"model": model, "stream": False})


async def _generate(request: HttpRequest, path: Mapping[str, Any]) -> HttpResponseBase:
    return await create_translated(request, surface=GENERATE, path=path)


async def _stream(request: HttpRequest, path: Mapping[str, Any]) -> HttpResponseBase:
    if _query(request).get("alt") != ["sse"]:
        raise InvalidRequestError("Streams are server-sent events here: ask with `?alt=sse`.", param="alt")
    return await create_translated(request, surface=GENERATE, path={**path, "stream": True})


async def _count(request: HttpRequest, path: Mapping[str, Any]) -> HttpResponseBase:
    count = await counted(request, surface=COUNT, path=path)
    return JsonResponse({"totalTokens": count.tokens}, headers=count_headers(count))


async def _embed(request: HttpRequest, path: Mapping[str, Any]) -> HttpResponseBase:
    return await create_translated(request, surface=EMBED, path=path)


async def _embed_batch(request: HttpRequest, path: Mapping[str, Any]) -> HttpResponseBase:
    return await create_translated(request, surface=BATCH_EMBED, path=path)


OPERATIONS: Mapping[str, Callable[[HttpRequest, Mapping[str, Any]], Awaitable[HttpResponseBase]]] = {
    "generateContent": _generate,
    "streamGenerateContent": _stream,
    "countTokens": _count,
    "embedContent": _embed,
    "batchEmbedContents": _embed_batch,
}


def _query(request: HttpRequest) -> dict[str, list[str]]:
    assert isinstance(request, SlimRequest)
    return parse_qs(request.scope["query_string"].decode("latin-1"))


def _check_query(request: HttpRequest) -> None:
    """Raises InvalidApiKeyError for a key in the URL: it is as good as told to others."""
    if "key" in _query(request):
        raise InvalidApiKeyError(KEY_IN_URL)


def _model(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": list(METHODS),
    }

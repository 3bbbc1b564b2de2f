"""The ASGI application: the APIs on the slim path, everything else by Django and Channels."""

import asyncio
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

_django = get_asgi_application()

from gateway.api import COMPLETIONS  # noqa: E402 -- app registry first
from gateway.consumers import LiveConsumer  # noqa: E402 -- app registry first
from gateway.lifespan import Gateway  # noqa: E402 -- app registry first
from gateway.slim import GOOGLE_PATH, Receive, Scope, Send, SlimHandler  # noqa: E402

SLIM_PREFIXES = ("/v1/", GOOGLE_PATH)
# LiteLLM's clients leave /v1 out; with its key management on we take them so.
LITELLM_PATHS = {
    f"/{path}": f"/v1/{path}" for path in ("chat/completions", "completions", "embeddings", "models")
}
# Ninja's own page, a plain Django view.
OPENAPI_PATH = "/v1/openapi.json"
# Headers by which a client could move Django's root path or claim another scheme (daphne reads them).
STRIPPED_HEADERS = frozenset({b"daphne-root-path"})


class Application:
    """One per process. Under a server without lifespan events the first request starts the gateway."""

    def __init__(self) -> None:
        # None until it is started, and again when it has stopped.
        self.gateway: Gateway | None = None
        self._starting = asyncio.Lock()
        self.slim = SlimHandler(
            operations=COMPLETIONS,
            body_bytes_max=settings.BODY_BYTES_MAX,
            body_timeout_s=settings.BODY_TIMEOUT_S,
            write_timeout_s=settings.WRITE_TIMEOUT_S,
            depth_max=settings.JSON_DEPTH_MAX,
        )
        self._websockets = AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([path("ws/live/", LiveConsumer.as_asgi())]))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        gateway = self.gateway or await self._started()
        scope["gateway"] = gateway
        if settings.MASTER_KEY and scope["type"] == "http":
            scope["path"] = LITELLM_PATHS.get(scope["path"], scope["path"])
        if scope["type"] == "websocket":
            await self._websockets(scope, receive, send)
        elif scope["path"].startswith(SLIM_PREFIXES) and scope["path"] != OPENAPI_PATH:
            await self.slim(scope, receive, send, gateway)
        else:
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in STRIPPED_HEADERS]
            await _django(dict(scope), receive, send)  # type: ignore[arg-type]  # ASGI's send, typed narrower

    def begin_drain(self, *, timeout_s: float) -> None:
        """The server is about to close: see Gateway.begin_drain."""
        if self.gateway is not None:
            self.gateway.begin_drain(timeout_s=timeout_s)

    async def _started(self) -> Gateway:
        async with self._starting:
            if self.gateway is None:
                gateway = Gateway()
                await gateway.start()
                self.gateway = gateway
        return self.gateway

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._started()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            await gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


application: Any = Application()

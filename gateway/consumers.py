"""The live page's websocket: staff only, it passes on what the gateways publish."""

import time
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth import get_user_model

from gateway.live import GROUP

# A page may stay open for days: who was logged out or lost the right hears nothing after so long.
RECHECK_INTERVAL_S = 60.0
FORBIDDEN = 4403


class LiveConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels ships no types
    """One open live page."""

    groups = [GROUP]
    clock = staticmethod(time.monotonic)

    async def connect(self) -> None:
        """Refuse everybody but staff: the handshake fails with 403."""
        user = self.scope.get("user")
        if user is None or not user.is_active or not user.is_staff:
            await self.close(code=FORBIDDEN)
            return
        self._checked_at_s = self.clock()
        await self.accept()

    async def receive_json(self, content: Any, **_kwargs: Any) -> None:
        """The page says nothing that matters."""

    async def live_update(self, event: dict[str, Any]) -> None:
        """A gateway process published."""
        now_s = self.clock()
        if now_s - self._checked_at_s >= RECHECK_INTERVAL_S:
            self._checked_at_s = now_s
            if not await database_sync_to_async(self._is_still_welcome)():
                await self.close(code=FORBIDDEN)
                return
        await self.send_json(event["update"])

    def _is_still_welcome(self) -> bool:
        """Whether the session is still there and its user still staff; two queries."""
        session = self.scope["session"]
        users = get_user_model().objects.filter(pk=self.scope["user"].pk, is_active=True, is_staff=True)
        return bool(session.exists(session.session_key) and users.exists())

"""The live page's websocket: staff only, it passes on what the gateways publish."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from gateway.live import GROUP


class LiveConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels ships no types
    """One open live page."""

    groups = [GROUP]

    async def connect(self) -> None:
        """Refuse everybody but staff: the handshake fails with 403."""
        user = self.scope.get("user")
        if user is None or not user.is_active or not user.is_staff:
            await self.close()
            return
        await self.accept()

    async def receive_json(self, content: Any, **_kwargs: Any) -> None:
        """The page says nothing that matters."""

    async def live_update(self, event: dict[str, Any]) -> None:
        """A gateway process published."""
        await self.send_json(event["update"])

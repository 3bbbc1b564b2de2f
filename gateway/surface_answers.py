"""Hands the answer to a translated request back in its own API's words, whole or event by event."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import structlog

from gateway.errors import InternalError, error_event
from gateway.idempotency import KeptAnswer
from gateway.outbox import Headers, Outbox, Reply
from gateway.surfaces.translation import Circumstances, StreamTranslator, Translation

logger = structlog.get_logger(__name__)


class TranslatedOutbox:
    """The caller's side of an outbox, each piece translated as it is read.

    What holds of the outbox holds here: its last piece, without which no answer is complete in any API's
    words, is there once the answer is settled.
    """

    def __init__(self, outbox: Outbox, translator: StreamTranslator) -> None:
        self._outbox = outbox
        self._translator = translator

    @property
    def is_left(self) -> bool:
        return self._outbox.is_left

    async def stream(self) -> AsyncIterator[bytes]:
        async for data in self._outbox.stream():
            if events := self._translated(data):
                yield events

    def abandon(self) -> None:
        self._outbox.abandon()

    def _translated(self, data: bytes) -> bytes:
        try:
            return self._translator.feed(data)
        except Exception:
            # The headers are gone: only an event can still say it, after which nothing follows.
            logger.exception("stream_not_translated")
            crash = InternalError("The answer could not be translated; the gateway's log has the request id.")
            return self._translator.feed(error_event(crash))


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """A chat completion's answer in the words of the API that was asked."""

    translation: Translation
    circumstances: Circumstances

    def reply(self, reply: Reply, *, more_headers: Headers) -> Reply:
        """Raises UpstreamInvalidError for a body that is no answer."""
        body = None if reply.body is None else self.translation.answer(reply.body, self.circumstances)
        return Reply(headers=(*reply.headers, *more_headers), body=body)

    def outbox(self, outbox: Outbox) -> TranslatedOutbox:
        return TranslatedOutbox(outbox, self._translator())

    def kept(self, kept: KeptAnswer, *, more_headers: Headers) -> KeptAnswer:
        """The kept answer is the chat's; the same words come of it again."""
        if kept.is_stream:
            body = self._translator().feed(kept.body)
        else:
            body = self.translation.answer(kept.body, self.circumstances)
        return replace(kept, headers=(*kept.headers, *more_headers), body=body)

    def _translator(self) -> StreamTranslator:
        assert self.translation.stream is not None, "only what can be streamed is"
        return self.translation.stream(self.circumstances)

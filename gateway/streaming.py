"""Relays an upstream's event stream: bytes that need no change pass as they came, the rest is parsed.

The relay does no I/O: chunks go in, what may be sent on comes out. It holds back the end of the
stream, so that the caller can settle before the last byte leaves.
"""

from typing import Any

import msgspec
import orjson

from gateway.errors import UpstreamError, UpstreamInvalidError
from gateway.metering import exact_number

DONE = b"data: [DONE]\n\n"
# A run of whole frames of JSON objects: what upstreams send nearly always.
FRAME_START = b"data: {"
FRAME_JOINT = b"}\n\ndata: {"
FRAME_END = b"}\n\n"
USAGE_NULL = (b',"usage":null', b', "usage": null', b',"usage": null')


class _Choice(msgspec.Struct):
    finish_reason: object = None


class _Event(msgspec.Struct):
    """The members of an event that say whether it is for us; the rest is only checked to be JSON."""

    choices: list[_Choice]
    service_tier: object = None
    object: str = ""
    usage: Any = msgspec.UNSET
    error: Any = None


class _UsageEvent(msgspec.Struct):
    usage: object = None


_events_decoder = msgspec.json.Decoder(list[_Event])
_usage_decoder = msgspec.json.Decoder(_UsageEvent, float_hook=exact_number)


class StreamRelay:
    """One stream's state. `feed` raises UpstreamInvalidError or UpstreamError where the stream is wrong.

    Where good frames came together with the wrong one, it gives those, and `fault` is what to raise then:
    what the caller gets does not depend on how the bytes were cut.
    """

    def __init__(self, *, wants_usage: bool, choice_count: int, line_bytes_max: int) -> None:
        self._wants_usage = wants_usage
        self._choice_count = choice_count
        self._line_bytes_max = line_bytes_max
        self._rest = b""
        self._finished: set[int] = set()
        self._has_begun = False
        self.reported_usage: object = None
        self.service_tier: object = None
        self.content_frames = 0
        self.is_done = False
        self.fault: UpstreamError | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the choices said why they ended; without that the stream was cut.

        All of them, unless the upstream said `[DONE]`: some ignore `n` and answer once.
        """
        return len(self._finished) >= (1 if self.is_done else self._choice_count)

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived; give back the bytes that may be sent on now, possibly none."""
        if self.is_done:
            return b""
        data = self._rest + chunk if self._rest else chunk
        if b"\r" in data:
            # A \r whose \n has not come yet stays in the rest, and meets it with the next chunk.
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._keep(data)
            return b""
        self._keep(data[end:])
        frames = data[:end]
        if not self._wants_usage and b'"usage"' in frames and _is_usage_null_only(frames):
            # We asked for usage, the client did not: its empty members go, cheaply.
            frames = _without_usage_null(frames)
        return frames if self._is_plain(frames) else self._walk(frames)

    def finish(self) -> bytes:
        """The upstream closed: give back one last frame that came without its blank line, if any."""
        rest, self._rest = self._rest.strip(), b""
        return self._walk(rest + b"\n\n") if rest and not self.is_done else b""

    def _keep(self, rest: bytes) -> None:
        if len(rest) > self._line_bytes_max:
            raise UpstreamInvalidError(f"The upstream sent a line longer than {self._line_bytes_max} bytes.")
        self._rest = rest

    def _is_plain(self, frames: bytes) -> bool:
        """Whether all frames may pass as they are: content, no end, nothing for us. Counts them if so."""
        if not (frames.startswith(FRAME_START) and frames.endswith(FRAME_END)):
            return False
        count = frames.count(b"\n\n")
        if frames.count(FRAME_JOINT) != count - 1:
            return False
        try:
            events = _events_decoder.decode(b"[%b]" % frames[6:-2].replace(b"\n\ndata: ", b","))
        except msgspec.DecodeError:
            return False
        # A usage member that is null may stay with a client that asked for usage, with no other.
        nothing = None if self._wants_usage else msgspec.UNSET
        if len(events) != count or not all(_is_content(event, nothing) for event in events):
            return False
        self.content_frames += count
        if not self._has_begun:
            self.service_tier = events[0].service_tier
            self._has_begun = True
        return True

    def _walk(self, frames: bytes) -> bytes:
        kept: list[bytes] = []
        for part in frames.split(b"\n\n"):
            # A third line feed in a row says nothing; where it stood must not depend on the chunks.
            frame = part.strip(b"\n")
            if not frame or self.is_done:
                continue
            try:
                kept.append(self._frame(frame))
            except UpstreamError as error:
                if not any(kept):
                    raise
                self.fault = error
                break
        return b"".join(kept)

    def _frame(self, frame: bytes) -> bytes:
        payload = _payload(frame)
        if not payload:
            # A comment keeps the connection alive. Before the first event it would commit us to an
            # answer that may yet be an error (WIRE 10).
            return frame + b"\n\n" if payload is None and self._has_begun else b""
        if payload.startswith(b"[DONE]"):
            self.is_done = True
            return b""
        event = self._event(frame, payload)
        self._has_begun = True
        return event

    def _event(self, frame: bytes, payload: bytes) -> bytes:
        """One JSON event: note what matters, give back what the client gets of it."""
        event = _decoded(payload)
        choices, usage = event.get("choices") or [], event.get("usage")
        self._note(choices, usage if usage is None else _exact_usage(payload, usage))
        # Upstreams write it into each event or the last ones; what it was in the end counts.
        self.service_tier = event.get("service_tier") or self.service_tier
        if self._wants_usage or "usage" not in event:
            return frame + b"\n\n"
        if not choices and usage is not None:
            return b""  # the extra chunk that the client did not ask for (WIRE 8)
        if usage is None and _is_usage_null_only(frame):
            return _without_usage_null(frame) + b"\n\n"
        del event["usage"]
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def _note(self, choices: list[Any], usage: object) -> None:
        if usage is not None:
            self.reported_usage = usage
        for position, choice in enumerate(choices):
            if isinstance(choice, dict) and choice.get("finish_reason"):
                # By index: some upstreams repeat it in later chunks.
                index = choice.get("index", position)
                self._finished.add(index if isinstance(index, int) else position)
        if choices:
            self.content_frames += 1


def _payload(frame: bytes) -> bytes | None:
    """The data of one event, None for a comment; other fields of the protocol are passed over."""
    lines = frame.split(b"\n")
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    if data:
        return b"\n".join(data)
    if all(line.startswith((b":", b"event:", b"id:", b"retry:")) or not line for line in lines):
        return None
    raise UpstreamInvalidError("The upstream sent something that is no event stream.")


def _decoded(payload: bytes) -> dict[str, Any]:
    """The event, if it is one and no error; its choices are a list or nothing."""
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise UpstreamInvalidError("The upstream sent an event that is not JSON.") from error
    if not isinstance(event, dict):
        raise UpstreamInvalidError("The upstream sent an event that is not an object.")
    if event.get("error") or event.get("object") == "error":
        raise UpstreamError(
            f"The upstream failed while answering: {_error_text(event.get('error') or event)}"
        )
    if not isinstance(event.get("choices") or [], list):
        raise UpstreamInvalidError("The upstream sent choices that are not a list.")
    return event


def _exact_usage(payload: bytes, usage: object) -> object:
    """The usage with its amounts of money as they were written, where it has any that are no whole number."""
    if not isinstance(usage, dict) or not {"cost", "total_cost"} & usage.keys():
        return usage
    try:
        return _usage_decoder.decode(payload).usage
    except msgspec.DecodeError:
        return usage


def _is_content(event: _Event, nothing: object) -> bool:
    if event.usage is not msgspec.UNSET and event.usage is not nothing:
        return False
    if event.error or event.object == "error" or not event.choices:
        return False
    return all(choice.finish_reason is None for choice in event.choices)


def _is_usage_null_only(frames: bytes) -> bool:
    return frames.count(b'"usage"') == sum(frames.count(null) for null in USAGE_NULL)


def _without_usage_null(frames: bytes) -> bytes:
    for null in USAGE_NULL:
        frames = frames.replace(null, b"")
    return frames


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "it did not say why")[:300]

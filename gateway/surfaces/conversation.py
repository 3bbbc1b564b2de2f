"""The messages of a chat completion, built turn by turn from another API's."""

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.portable_chat import THINKING_BLOCKS

Part = dict[str, Any]
TURN_JOINT = "\n\n"
MEDIA_NOTE = "What tool call {call_id} returned besides text:"
ERROR_MARK = "Error: "


class Conversation:
    """Turns of one side in a row become one message: chat templates want the sides to alternate.

    Messages are as gateway.portable_chat takes them: texts are parts, with the marks that they came with.
    A chat's tool message holds text alone, so the pictures of a tool's result follow in a user message.
    """

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._media: list[Part] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        self._add_media()
        return self._messages

    def add_system(self, parts: Iterable[Part]) -> None:
        self._add_media()
        self._latest("system")["content"] += parts

    def add_user(self, parts: Iterable[Part]) -> None:
        self._add_media()
        self._latest("user")["content"] += parts

    def add_assistant(
        self,
        *,
        texts: Sequence[Part] = (),
        reasoning: str = "",
        thinking_blocks: Sequence[Part] = (),
        calls: Sequence[Part] = (),
    ) -> None:
        self._add_media()
        latest = self._latest("assistant")
        if texts and latest["content"]:
            texts = [{**texts[0], "text": TURN_JOINT + texts[0]["text"]}, *texts[1:]]
        latest["content"] += texts
        if reasoning:
            said = latest.get("reasoning_content")
            latest["reasoning_content"] = said + TURN_JOINT + reasoning if said else reasoning
        for name, more in ((THINKING_BLOCKS, thinking_blocks), ("tool_calls", calls)):
            if more:
                latest.setdefault(name, []).extend(more)

    def add_tool_result(
        self,
        *,
        call_id: str,
        text: str,
        media: Sequence[Part],
        is_error: bool = False,
        mark: Part | None = None,
    ) -> None:
        content = ERROR_MARK + text if is_error else text
        result = {"role": "tool", "tool_call_id": call_id, "content": content, **(mark or {})}
        self._messages.append(result)
        if media:
            self._media += [text_part(MEDIA_NOTE.format(call_id=call_id)), *media]

    def _latest(self, role: str) -> dict[str, Any]:
        """The last message if it is of this side, else a new one."""
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": []})
        return self._messages[-1]

    def _add_media(self) -> None:
        """Once no further result can follow: results stand next to each other."""
        if self._media:
            media, self._media = self._media, []
            self._latest("user")["content"] += media


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def image_part(url: str, *, detail: str | None = None) -> Part:
    image = {"url": url} if detail is None else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def file_part(*, data_url: str, name: str) -> Part:
    return {"type": "file", "file": {"filename": name, "file_data": data_url}}


def function_call(*, call_id: str, name: str, arguments: str) -> Part:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

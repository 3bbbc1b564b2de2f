"""Tells a chat's tool calls apart, and gathers what has come of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.portable_chat import signature_of
from gateway.surfaces.chat_answer import calls_of, said_of
from gateway.surfaces.translation import Circumstances

# What Anthropic's guide to eager streaming of tool inputs wraps arguments into that are no JSON object.
INVALID_JSON = "INVALID_JSON"


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """`told` characters of the arguments are sent on; it may not go on once it `is_closed`.

    `signature` is what Google's models want back with it.
    """

    id: str
    name: str
    arguments: str = ""
    signature: str = ""
    told: int = 0
    is_closed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a JSON value by now: then nothing can follow."""
        try:
            orjson.loads(self.arguments)
        except orjson.JSONDecodeError:
            return False
        return True

    @property
    def arguments_object(self) -> dict[str, Any]:
        """The arguments as other APIs want them: what is no JSON object stands as it came in one member."""
        try:
            parsed = orjson.loads(self.arguments) if self.arguments.strip() else {}
        except orjson.JSONDecodeError:
            parsed = None
        return parsed if isinstance(parsed, dict) else {INVALID_JSON: self.arguments}

    def take_untold(self) -> str:
        untold, self.told = self.arguments[self.told :], len(self.arguments)
        return untold


class CallTable:
    """Calls by the index that chunks give them; a new id at a known index is a new call."""

    def __init__(self, circumstances: Circumstances) -> None:
        self._circumstances = circumstances
        self._latest: dict[object, Call] = {}
        self._count = 0

    def take(self, said: Mapping[str, Any]) -> tuple[Call, bool]:
        """The call that a delta belongs to, its arguments added, and whether it is new."""
        index, call_id = said.get("index", 0), said_of(said, "id")
        function = said.get("function") or {}
        call = self._latest.get(index)
        is_new = call is None or bool(call_id and call.id != call_id)
        if call is None or is_new:
            given = call_id or _new_id(self._circumstances, self._count)
            call = self._latest[index] = Call(id=given, name=said_of(function, "name"))
            self._count += 1
        call.arguments += said_of(function, "arguments")
        call.signature = call.signature or signature_of(said)
        return call, is_new


def whole_calls(message: Mapping[str, Any], circumstances: Circumstances) -> list[Call]:
    """Those of a plain answer."""
    calls = []
    for number, said in enumerate(calls_of(message)):
        function = said.get("function") or {}
        call_id = said_of(said, "id") or _new_id(circumstances, number)
        name, arguments = said_of(function, "name"), said_of(function, "arguments")
        calls.append(Call(id=call_id, name=name, arguments=arguments, signature=signature_of(said)))
    return calls


def _new_id(circumstances: Circumstances, number: int) -> str:
    """For upstreams that give a call no id: results could not be told apart."""
    return f"call_{circumstances.token}_{number}"

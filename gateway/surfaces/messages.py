"""Anthropic's Messages API as one surface."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway.surfaces.messages_answer import message_of_answer
from gateway.surfaces.messages_headers import anthropic_headers
from gateway.surfaces.messages_request import chat_of_messages, shows_thinking
from gateway.surfaces.messages_stream import MessageStream
from gateway.surfaces.translation import Surface, Translation


def translate_messages(document: Mapping[str, Any]) -> Translation:
    """Raises InvalidRequestError that names the member in the wrong."""
    shows = shows_thinking(document)
    return Translation(
        document=chat_of_messages(document),
        answer=partial(message_of_answer, shows_thinking=shows),
        stream=partial(MessageStream, shows_thinking=shows),
    )


MESSAGES = Surface(
    translate=translate_messages, more_headers=anthropic_headers, count_defaults={"max_tokens": 1}
)

"""OpenAI's Responses API as one surface."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway.surfaces.responses_answer import response_of_answer
from gateway.surfaces.responses_request import chat_of_responses
from gateway.surfaces.responses_stream import ResponseStream
from gateway.surfaces.translation import Surface, Translation


def translate_responses(document: Mapping[str, Any]) -> Translation:
    """Raises InvalidRequestError that names the member in the wrong."""
    return Translation(
        document=chat_of_responses(document),
        answer=partial(response_of_answer, asked=document),
        stream=partial(ResponseStream, asked=document),
    )


RESPONSES = Surface(translate=translate_responses)

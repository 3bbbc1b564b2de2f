"""Google's Gemini API as surfaces: to generate content and to embed it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway.surfaces.gemini_answer import embeddings_of_answer, response_of_answer
from gateway.surfaces.gemini_request import (
    chat_of_generate,
    counted_request,
    embedding_input,
    shows_thinking,
)
from gateway.surfaces.gemini_stream import GenerateStream
from gateway.surfaces.translation import Surface, Translation


def translate_generate(document: Mapping[str, Any], *, is_answered: bool = True) -> Translation:
    """Raises InvalidRequestError that names the member in the wrong."""
    shows = shows_thinking(document)
    return Translation(
        document=chat_of_generate(document, is_answered=is_answered),
        answer=partial(response_of_answer, shows_thinking=shows),
        stream=partial(GenerateStream, shows_thinking=shows),
    )


def translate_counted(document: Mapping[str, Any]) -> Translation:
    """The request whose prompt is counted, with the model of the path."""
    counted = {**counted_request(document), "model": document.get("model")}
    return translate_generate(counted, is_answered=False)


def translate_embedding(document: Mapping[str, Any], *, is_batch: bool) -> Translation:
    """Raises InvalidRequestError that names the member in the wrong."""
    return Translation(
        surface="embeddings",
        document=embedding_input(document),
        answer=partial(embeddings_of_answer, is_batch=is_batch),
    )


GENERATE = Surface(translate=translate_generate)
COUNT = Surface(translate=translate_counted)
EMBED = Surface(translate=partial(translate_embedding, is_batch=False))
BATCH_EMBED = Surface(translate=partial(translate_embedding, is_batch=True))

"""The contents of Google's Gemini API as the messages of a chat completion.

https://ai.google.dev/api/caching#Content. A call keeps its signature where gateway.dialects looks for it.
"""

import base64
import binascii
from collections.abc import Iterable
from itertools import groupby

import orjson

from gateway.surfaces.conversation import (
    Conversation,
    Part,
    file_part,
    function_call,
    image_part,
    text_part,
)
from gateway.surfaces.gemini_schema import camel_case
from gateway.surfaces.members import Members

ROLES = ("user", "model", "function")
PDF_TYPE, PDF_NAME = "application/pdf", "document.pdf"
AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav"}
# What a part can be; the rest of its members say something of that.
KINDS = (
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
)


class _OpenCalls:
    """The calls that wait for a response. Google's clients need not give them ids."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._count = 0

    def add(self, call: Members) -> str:
        """The call's id, or one of ours."""
        call_id = call.text_or_none("id") or f"call_{self._count}"
        self._count += 1
        self._open.append((call_id, call.text("name")))
        return call_id

    def take(self, response: Members) -> str:
        """The id of the call that is answered: by its id, else the first of its name."""
        given, name = response.text_or_none("id"), response.text("name")
        by_id = [call for call in self._open if call[0] == given]
        found = by_id or [call for call in self._open if call[1] == name]
        if not found:
            raise response.wrong("name", "answers no function call before it")
        self._open.remove(found[0])
        return found[0][0]


def camel(members: Members) -> Members:
    """An object with its members in camel case, however they came."""
    return Members({camel_case(name): value for name, value in members.document.items()}, at=members.at)


def read_conversation(document: Members, *, is_answered: bool) -> Conversation:
    """`systemInstruction` and `contents`; raises InvalidRequestError for what is wrong or no chat can say.

    What is not answered, but only counted, may end with what the model said: clients count their history.
    """
    conversation, calls = Conversation(), _OpenCalls()
    system = document.member_or_none("systemInstruction")
    if system is not None:
        conversation.add_system([text_part(part.text("text")) for part in _parts_of(camel(system))])
    contents = contents_of(document)
    for is_model, turn in groupby(contents, key=_is_model):
        if is_model:
            # Google's SDK keeps each event of a stream as a content: pieces of one text.
            _add_model(conversation, [part for content in turn for part in _parts_of(content)], calls)
        else:
            for content in turn:
                _add_user(conversation, content, calls)
    if is_answered and contents[-1].get("role") == "model":
        # Some continue it, some answer it, some repeat it.
        raise contents[-1].unsupported("role", "may not be `model` in the last content")
    return conversation


def contents_of(document: Members) -> list[Members]:
    """A list of contents, or one by itself."""
    if isinstance(document.get("contents"), dict):
        return [camel(document.member("contents"))]
    contents = [camel(content) for content in document.items("contents")]
    if not contents:
        raise document.wrong("contents", "must be a list with at least one content")
    return contents


def text_of(content: Members) -> str:
    """A content that is all text, as embeddings are asked for."""
    return "".join(part.text("text") for part in _parts_of(content))


def _is_model(content: Members) -> bool:
    return content.get("role") is not None and content.choice("role", ROLES) == "model"


def _parts_of(content: Members) -> list[Members]:
    parts = [camel(part) for part in content.items("parts")]
    if not parts:
        raise content.wrong("parts", "must be a list with at least one part")
    return parts


def _kind(part: Members) -> str:
    kinds = [kind for kind in KINDS if part.get(kind) is not None]
    if len(kinds) != 1:
        raise part.wrong(KINDS[0], f"or one of {', '.join(KINDS[1:])} must be there, and only one")
    return kinds[0]


def _add_user(conversation: Conversation, content: Members, calls: _OpenCalls) -> None:
    shown: list[Part] = []
    for part in _parts_of(content):
        if _kind(part) == "functionResponse":
            # Results belong right after their calls, whatever stands before them here.
            response = camel(part.member("functionResponse"))
            result = orjson.dumps(response.member("response").document).decode()
            media = [shown for given in response.items("parts") for shown in _shown(camel(given))]
            conversation.add_tool_result(call_id=calls.take(response), text=result, media=media)
        else:
            shown += _shown(part)
    if shown:
        conversation.add_user(shown)


def _shown(part: Members) -> Iterable[Part]:
    kind = _kind(part)
    if kind == "text":
        return [text_part(part.text("text"))]
    if kind == "inlineData":
        return [_medium(camel(part.member(kind)))]
    if kind == "fileData":
        return [_file(camel(part.member(kind)))]
    raise part.unsupported(kind, "cannot be passed on to the model")


def _medium(data: Members) -> Part:
    mime_type, text = data.text("mimeType"), _standard_base64(data.text("data"))
    url = f"data:{mime_type};base64,{text}"
    if mime_type.startswith("image/"):
        return image_part(url)
    if mime_type in AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": text, "format": AUDIO_FORMATS[mime_type]}}
    if mime_type.startswith("video/"):
        return {"type": "video_url", "video_url": {"url": url}}
    if mime_type == PDF_TYPE:
        return file_part(data_url=url, name=PDF_NAME)
    if mime_type.startswith("text/"):
        try:
            return text_part(base64.b64decode(text, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            raise data.wrong("data", "must be text in UTF-8, encoded as base64") from None
    raise data.unsupported("mimeType", f"`{mime_type}` cannot be passed on to the model")


def _standard_base64(text: str) -> str:
    """Google takes either alphabet, padded or not, and its SDK sends that of URLs; backends take this one."""
    return text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)


def _file(data: Members) -> Part:
    uri = data.text("fileUri")
    if not uri.startswith(("https://", "http://", "data:")) or "/v1beta/files/" in uri:
        raise data.unsupported("fileUri", "must be a web address: no files are kept here, send the data")
    if not (data.text_or_none("mimeType") or "image/").startswith("image/"):
        raise data.unsupported("mimeType", "must be an image's: send other media as `inlineData`")
    return image_part(uri)


def _add_model(conversation: Conversation, parts: Iterable[Members], calls: _OpenCalls) -> None:
    texts: list[Part] = []
    thoughts: list[str] = []
    made: list[Part] = []
    for part in parts:
        kind = _kind(part)
        if kind == "text" and part.flag("thought"):
            thoughts.append(part.text("text"))
        elif kind == "text":
            texts.append(text_part(part.text("text")))
        elif kind == "functionCall":
            made.append(_call(part, calls))
        else:
            raise part.unsupported(kind, "cannot be passed on to the model")
    conversation.add_assistant(texts=texts, reasoning="".join(thoughts), calls=made)


def _call(part: Members, calls: _OpenCalls) -> Part:
    call = camel(part.member("functionCall"))
    given = call.member_or_none("args")
    arguments = orjson.dumps({} if given is None else given.document).decode()
    made = function_call(call_id=calls.add(call), name=call.text("name"), arguments=arguments)
    signature = part.text_or_none("thoughtSignature")
    if signature:
        made["extra_content"] = {"google": {"thought_signature": signature}}
    return made

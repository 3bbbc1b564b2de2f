"""The messages of Anthropic's Messages API as those of a chat completion.

https://platform.claude.com/docs/en/api/messages. Marks for caches and signed thoughts stay with their blocks,
for the makers that know them (gateway.portable_chat).
"""

from collections.abc import Iterable

import orjson

from gateway.portable_chat import CACHE_MARK
from gateway.surfaces.conversation import (
    Conversation,
    Part,
    file_part,
    function_call,
    image_part,
    text_part,
)
from gateway.surfaces.members import Members

ROLES = ("user", "assistant", "system")
BLOCK_JOINT = "\n\n"
# Claude Code's accounts with Anthropic: another text in each request, which no prefix cache survives.
ATTRIBUTION_START = "x-anthropic-billing-header:"
PDF_TYPE = "application/pdf"
PDF_NAME = "document.pdf"


def read_conversation(document: Members) -> Conversation:
    """`system` and `messages`; raises InvalidRequestError for what is wrong or no chat can say."""
    conversation = Conversation()
    if system := _system_parts(document, "system"):
        conversation.add_system(system)
    messages = document.items("messages")
    if not messages:
        raise document.wrong("messages", "must be a list with at least one message")
    for message in messages:
        role = message.choice("role", ROLES)
        if role == "system":
            conversation.add_system(_system_parts(message, "content"))
        elif role == "assistant":
            _add_assistant(conversation, message)
        else:
            _add_user(conversation, message)
    if messages[-1].get("role") == "assistant":
        # Some continue it, some answer it, some repeat it; Anthropic's newer models refuse it too.
        raise messages[-1].unsupported("role", "may not be `assistant` in the last message")
    return conversation


def _system_parts(document: Members, name: str) -> list[Part]:
    parts = [_text_part(block) for block in _blocks(document, name)]
    return [part for part in parts if not part["text"].startswith(ATTRIBUTION_START)]


def _blocks(document: Members, name: str) -> list[Members]:
    """A member that is a string, short for one text block, or a list of blocks."""
    given = document.get(name)
    if isinstance(given, str):
        return [Members({"type": "text", "text": given}, at=document.path(name))] if given else []
    return document.items(name)


def _add_user(conversation: Conversation, message: Members) -> None:
    if message.get("content") is None:
        raise message.wrong("content", "must be a string or a list of blocks")
    blocks = _blocks(message, "content")
    # Results belong right after their calls, whatever stands before them here.
    for block in blocks:
        if block.get("type") == "tool_result":
            _add_tool_result(conversation, block)
    parts = [part for block in blocks if block.get("type") != "tool_result" for part in _parts(block)]
    if parts:
        conversation.add_user(parts)


def _add_tool_result(conversation: Conversation, block: Members) -> None:
    parts = [part for inner in _blocks(block, "content") for part in _parts(inner)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    conversation.add_tool_result(
        call_id=block.text("tool_use_id"),
        text=BLOCK_JOINT.join(texts),
        media=[part for part in parts if part["type"] != "text"],
        is_error=block.flag("is_error"),
        mark=_mark(block),
    )


def _parts(block: Members) -> Iterable[Part]:
    """What a user, or a tool, shows."""
    kind = block.text("type")
    if kind == "text":
        return [_text_part(block)]
    if kind == "image":
        return [{**image_part(_image_url(block.member("source"))), **_mark(block)}]
    if kind == "document":
        return _document_parts(block)
    if kind == "search_result":
        _refuse_citations(block)
        texts = [inner.text("text") for inner in block.items("content")]
        return [text_part(BLOCK_JOINT.join([block.text("title"), block.text("source"), *texts]))]
    raise block.unsupported("type", f"`{kind}` cannot be passed on to the model")


def _image_url(source: Members) -> str:
    if source.choice("type", ("base64", "url", "file")) == "file":
        raise source.unsupported("type", "`file` is not possible: no files are kept here, send the image")
    if source.get("type") == "url":
        return source.text("url")
    return f"data:{source.text('media_type')};base64,{source.text('data')}"


def _document_parts(block: Members) -> list[Part]:
    _refuse_citations(block)
    source = block.member("source")
    kind = source.choice("type", ("text", "base64", "content", "url", "file"))
    about = [text for name in ("title", "context") if (text := block.text_or_none(name))]
    if kind == "text":
        return [{**text_part(BLOCK_JOINT.join([*about, source.text("data")])), **_mark(block)}]
    if kind == "content":
        notes = [text_part(BLOCK_JOINT.join(about))] if about else []
        return [*notes, *(part for inner in _blocks(source, "content") for part in _parts(inner))]
    if kind == "base64" and source.text("media_type") == PDF_TYPE:
        data_url = f"data:{PDF_TYPE};base64,{source.text('data')}"
        name = block.text_or_none("title") or PDF_NAME
        return [{**file_part(data_url=data_url, name=name), **_mark(block)}]
    raise source.unsupported("type", f"`{kind}` is not possible: send the document itself")


def _refuse_citations(block: Members) -> None:
    citations = block.member_or_none("citations")
    if citations is not None:
        citations.refuse_if_given({"enabled": "is not possible: answers have no citations here"})


def _add_assistant(conversation: Conversation, message: Members) -> None:
    texts: list[Part] = []
    thoughts: list[str] = []
    thinking_blocks: list[Part] = []
    calls: list[Part] = []
    for block in _blocks(message, "content"):
        kind = block.text("type")
        if kind == "text":
            texts.append(_text_part(block))
        elif kind == "thinking":
            thoughts.append(block.text("thinking"))
            # Only what its maker signed it takes back; others read the thoughts.
            if block.get("signature"):
                thinking_blocks.append(dict(block.document))
        elif kind == "redacted_thinking":
            thinking_blocks.append(dict(block.document))
        elif kind == "tool_use":
            calls.append({**_call(block), **_mark(block)})
        else:
            raise block.unsupported("type", f"`{kind}` cannot be passed on to the model")
    conversation.add_assistant(
        texts=texts, reasoning="".join(thoughts), thinking_blocks=thinking_blocks, calls=calls
    )


def _call(block: Members) -> Part:
    arguments = orjson.dumps(block.member("input").document).decode()
    return function_call(call_id=block.text("id"), name=block.text("name"), arguments=arguments)


def _text_part(block: Members) -> Part:
    return {**text_part(block.text("text")), **_mark(block)}


def _mark(block: Members) -> Part:
    mark = block.member_or_none(CACHE_MARK)
    return {} if mark is None else {CACHE_MARK: mark.document}

"""The input of OpenAI's Responses API as the messages of a chat completion.

https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Callable

from gateway.surfaces.conversation import (
    Conversation,
    Part,
    file_part,
    function_call,
    image_part,
    text_part,
)
from gateway.surfaces.members import Members

# Chat templates know no developer.
SYSTEM_ROLES = frozenset({"system", "developer"})
ROLES = ("user", "assistant", "system", "developer")
TEXT_JOINT = "\n\n"
FILE_NAME = "document.pdf"
SAID_TYPES = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


def read_conversation(document: Members) -> Conversation:
    """`instructions` and `input`; raises InvalidRequestError for what is wrong or no chat can say."""
    conversation = Conversation()
    instructions = document.text_or_none("instructions")
    if instructions:
        conversation.add_system([text_part(instructions)])
    given = document.get("input")
    if isinstance(given, str) and given:
        conversation.add_user([text_part(given)])
        return conversation
    items = document.items("input") if not isinstance(given, str) else []
    if not items:
        raise document.wrong("input", "must be a string or a list with at least one item")
    for item in items:
        kind = item.get("type") or "message"
        read = READERS.get(kind)
        if read is None:
            raise item.unsupported("type", _why_not(kind))
        read(conversation, item)
    return conversation


def _why_not(kind: object) -> str:
    if kind == "item_reference":
        return "`item_reference` is not possible: answers are not stored here; send the item itself"
    return f"`{kind}` cannot be passed on to the model"


def _read_message(conversation: Conversation, item: Members) -> None:
    role = item.choice("role", ROLES)
    if role == "user":
        conversation.add_user([_part(part) for part in _parts(item, "content")])
        return
    texts = [text_part(_said(part)) for part in _parts(item, "content")]
    if role in SYSTEM_ROLES:
        conversation.add_system(texts)
    else:
        conversation.add_assistant(texts=texts)


def _read_call(conversation: Conversation, item: Members) -> None:
    call = function_call(
        call_id=item.text("call_id"), name=item.text("name"), arguments=item.text("arguments")
    )
    conversation.add_assistant(calls=[call])


def _read_output(conversation: Conversation, item: Members) -> None:
    parts = [_part(part) for part in _parts(item, "output")]
    conversation.add_tool_result(
        call_id=item.text("call_id"),
        text=TEXT_JOINT.join(part["text"] for part in parts if part["type"] == "text"),
        media=[part for part in parts if part["type"] != "text"],
    )


def _read_reasoning(conversation: Conversation, item: Members) -> None:
    """The thoughts themselves, else their summary. What is encrypted only its maker can read."""
    thoughts = item.items("content") or item.items("summary")
    conversation.add_assistant(reasoning=TEXT_JOINT.join(thought.text("text") for thought in thoughts))


READERS: dict[object, Callable[[Conversation, Members], None]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "reasoning": _read_reasoning,
}


def _parts(item: Members, name: str) -> list[Members]:
    """A member that is a string, short for one text, or a list of parts."""
    given = item.get(name)
    if isinstance(given, str):
        return [Members({"type": "input_text", "text": given}, at=item.path(name))]
    if given is None:
        raise item.wrong(name, "must be a string or a list of parts")
    return item.items(name)


def _part(part: Members) -> Part:
    kind = part.text("type")
    if kind in SAID_TYPES:
        return text_part(_said(part))
    if kind == "input_image":
        _refuse_file_id(part)
        return image_part(part.text("image_url"), detail=part.text_or_none("detail"))
    if kind == "input_file":
        _refuse_file_id(part)
        if part.get("file_url"):
            raise part.unsupported("file_url", "is not possible: send `file_data`")
        return file_part(data_url=part.text("file_data"), name=part.text_or_none("filename") or FILE_NAME)
    raise part.unsupported("type", f"`{kind}` cannot be passed on to the model")


def _refuse_file_id(part: Members) -> None:
    part.refuse_if_given({"file_id": "is not possible: no files are kept here; send the content itself"})


def _said(part: Members) -> str:
    kind = part.text("type")
    if kind not in SAID_TYPES:
        raise part.unsupported("type", f"`{kind}` is not possible in a message of this role")
    return part.text(SAID_TYPES[kind])

"""The body and the answer of POST /v1/feedback: what a caller says of the answer to one of its requests."""

from dataclasses import dataclass
from typing import Any, Literal

from ninja import Schema

from billing.feedback import COMMENT_CHARACTERS_MAX, FeedbackView
from billing.settled_rows import REQUEST_ID_CHARACTERS_MAX
from gateway.errors import InvalidRequestError, RequestTooLargeError
from gateway.schemas import decode_object

BODY_BYTES_MAX = 16 * 1024
MEMBERS = ("request_id", "id", "score", "comment")


class FeedbackBody(Schema):
    """`request_id` is the answer's header x-request-id (`id` may stand for it); `score` 0 bad to 1 good."""

    request_id: str | None = None
    id: str | None = None
    score: float
    comment: str | None = None


class FeedbackDocument(Schema):
    object: Literal["feedback"] = "feedback"
    request_id: str
    model: str
    score: float
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackSaid:
    """What was said, checked."""

    request_id: str
    score: float
    comment: str


def read_feedback(body: bytes, *, depth_max: int) -> FeedbackSaid:
    """Raises InvalidRequestError, which says what to write instead."""
    if len(body) > BODY_BYTES_MAX:
        raise RequestTooLargeError(f"Feedback is at most {BODY_BYTES_MAX} bytes; shorten the comment.")
    document = decode_object(body, depth_max=depth_max)
    if unknown := sorted(set(document) - set(MEMBERS)):
        raise InvalidRequestError(f"There is no `{unknown[0][:40]}` here: send {', '.join(MEMBERS)}.")
    return FeedbackSaid(request_id=_request_id(document), score=_score(document), comment=_comment(document))


def feedback_document(view: FeedbackView) -> dict[str, Any]:
    return FeedbackDocument(
        request_id=view.request_id, model=view.model, score=view.score, comment=view.comment
    ).model_dump()


def _request_id(document: dict[str, Any]) -> str:
    given = [document[name] for name in ("request_id", "id") if document.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(
            "Name one request: `request_id` is the header x-request-id of its answer.", param="request_id"
        )
    (name,) = given
    if not isinstance(name, str) or not 0 < len(name) <= REQUEST_ID_CHARACTERS_MAX or "\0" in name:
        raise InvalidRequestError(
            f"`request_id` is text of 1 to {REQUEST_ID_CHARACTERS_MAX} characters, as in x-request-id.",
            param="request_id",
        )
    return name


def _score(document: dict[str, Any]) -> float:
    score = document.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InvalidRequestError("`score` is a number from 0 (bad) to 1 (good).", param="score")
    return float(score)


def _comment(document: dict[str, Any]) -> str:
    comment = document.get("comment")
    if comment is None:
        return ""
    if not isinstance(comment, str) or len(comment) > COMMENT_CHARACTERS_MAX or "\0" in comment:
        raise InvalidRequestError(
            f"`comment` is text of at most {COMMENT_CHARACTERS_MAX} characters; shorten it.", param="comment"
        )
    return comment

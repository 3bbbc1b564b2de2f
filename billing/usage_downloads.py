"""Downloads of the usage page's period: every attempt as CSV, or the bill in the columns of FOCUS."""

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice

from asgiref.sync import sync_to_async
from django.contrib.admin.views.decorators import staff_member_required
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.cells import csv_texts
from billing.focus import focus_lines
from billing.periods import Period, PeriodError, period_of
from billing.usage_files import usage_lines

TEXT_CHARACTERS_MAX = 40
LINES_AT_ONCE = 500


@require_safe
@staff_member_required
def download_attempts(request: HttpRequest) -> HttpResponseBase:
    """Streamed; of the period alone, whatever else the page is filtered by."""
    try:
        period = _period(request)
    except PeriodError as error:
        return _refusal(error)
    lines = usage_lines(from_at=period.from_at, to_at=period.to_at)
    return _download(request, lines=lines, name="attempts", period=period)


@require_safe
@staff_member_required
def download_focus(request: HttpRequest) -> HttpResponseBase:
    """Streamed; a charge for each day, or for each hour with `by=hour`."""
    by = request.GET.get("by", "day")
    if by not in ("hour", "day"):
        return HttpResponse("by is hour or day", status=400, content_type="text/plain; charset=utf-8")
    try:
        period = _period(request)
    except PeriodError as error:
        return _refusal(error)
    lines = focus_lines(from_at=period.from_at, to_at=period.to_at, is_hourly=by == "hour")
    return _download(request, lines=lines, name="focus", period=period)


def _period(request: HttpRequest) -> Period:
    name, from_text, to_text = (
        request.GET.get(parameter, "")[:TEXT_CHARACTERS_MAX] for parameter in ("period", "from", "to")
    )
    return period_of(name=name, from_text=from_text, to_text=to_text, now=timezone.now())  # noqa: TID251 -- a view is an edge


def _download(
    request: HttpRequest, *, lines: Iterable[list[str]], name: str, period: Period
) -> StreamingHttpResponse:
    texts = csv_texts(lines)
    # Django reads a plain iterator to its end before it sends anything over ASGI.
    content = _in_pieces(texts) if isinstance(request, ASGIRequest) else texts
    response = StreamingHttpResponse(content, content_type="text/csv; charset=utf-8")
    file_name = f"{name}-{period.from_at:%Y-%m-%d}-{period.last_date:%Y-%m-%d}.csv"
    response["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return response


async def _in_pieces(texts: Iterator[str]) -> AsyncIterator[str]:
    def next_piece() -> str:
        return "".join(islice(texts, LINES_AT_ONCE))

    while piece := await sync_to_async(next_piece)():
        yield piece


def _refusal(error: PeriodError) -> HttpResponse:
    return HttpResponse(str(error), status=400, content_type="text/plain; charset=utf-8")

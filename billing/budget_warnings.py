"""Which warnings are due: a budget's window passed a share of its limit, which its people hear of once.

1. `note_warnings` compares what each running window has spent with the limit that counts now, and notes a row
   per target for the highest share passed. The row's unique key (window, share, target, limit) makes that
   once; another limit warns anew. What is only held is not spent yet and may be given back: it warns nobody.
2. `claim_due` hands a row to one sender: its next try is moved on by a conditional UPDATE, so two workers
   never send the same try. A sender that dies leaves the row due again: a message is sent at least once, and
   its id says which.
3. `mark_sent` or `mark_failed` end the try; after TRIES_MAX of them it is given up, which the admin shows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from billing.budgets import limit_at
from billing.models import Budget, BudgetWarning, BudgetWindow
from billing.statements import chunks
from billing.windows import WindowSpan, window_of

TRIES_MAX = 8
FIRST_PAUSE = timedelta(seconds=30)
PAUSE_MAX = timedelta(hours=1)
# A sender that has not told in so long is dead: its row is tried again.
CLAIM = timedelta(minutes=2)
DUE_MAX = 100
ERROR_CHARACTERS = 200
# Longer than any window but those that never end.
KEPT = timedelta(days=400)
PRUNED_PER_RUN_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWarning:
    """One message to one target. Amounts in nano-USD; `ends_at` None: the budget's window never ends."""

    id: UUID
    budget_id: UUID
    owner: str
    window: str
    starts_at: datetime
    ends_at: datetime | None
    is_hard: bool
    percent: int
    limit_nanousd: int
    spent_nanousd: int
    channel: str
    target: str
    noticed_at: datetime


def note_warnings(*, now: datetime) -> int:
    """Note what is to be told now; gives back how many rows are new. Three queries, and one to write."""
    budgets = [budget for budget in _budgets() if _targets(budget)]
    spans = {
        budget.id: window_of(window=budget.window, timezone=budget.timezone, now=now) for budget in budgets
    }
    ids = {budget.id: window_id(budget=budget, span=spans[budget.id]) for budget in budgets}
    windows = BudgetWindow.objects.in_bulk(list(ids.values()))
    rows = []
    for budget in budgets:
        window = windows.get(ids[budget.id])
        limit = limit_at(budget, now=now)
        passed = [p for p in budget.warning_percents if window and window.spent_nanousd * 100 >= limit * p]
        if window is None or not passed or window.spent_nanousd == 0:
            continue
        rows += [
            _row(budget, window, percent=max(passed), limit=limit, channel=channel, target=target, now=now)
            for channel, target in _targets(budget)
        ]
    known: set[tuple[str, int, str, str, int]] = set()
    for passed_ids in chunks(sorted({row.window_id for row in rows})):
        found = BudgetWarning.objects.filter(window_id__in=passed_ids)
        known.update(found.values_list("window_id", "percent", "channel", "target", "limit_nanousd"))
    new = [row for row in rows if _identity(row) not in known]
    # Another worker may note the same at once: the unique key lets the first win.
    BudgetWarning.objects.bulk_create(new, ignore_conflicts=True)
    return len(new)


def claim_due(*, clock: Callable[[], datetime]) -> Iterator[DueWarning]:
    """The messages to send now; each is claimed when it is its turn, and is this caller's for CLAIM then."""
    due = BudgetWarning.objects.filter(state=BudgetWarning.State.DUE, next_try_at__lte=clock())
    owners = ("budget__organisation", "budget__team", "budget__key")
    for row in list(due.select_related(*owners).order_by("next_try_at")[:DUE_MAX]):
        mine = BudgetWarning.objects.filter(id=row.id, state=BudgetWarning.State.DUE, tries=row.tries)
        if mine.update(tries=row.tries + 1, next_try_at=clock() + CLAIM) == 1:
            yield _warning(row)


def prune_warnings(*, now: datetime) -> int:
    """Delete what was told of windows that are long over; gives back how many.

    Of budgets that are never reset all stay: their windows are not over, and would be told of again.
    """
    old = BudgetWarning.objects.exclude(budget__window=Budget.Window.TOTAL).filter(created_at__lt=now - KEPT)
    ids = list(old.order_by("created_at").values_list("id", flat=True)[:PRUNED_PER_RUN_MAX])
    return sum(BudgetWarning.objects.filter(id__in=chunk).delete()[0] for chunk in chunks(ids))


def mark_sent(*, warning_id: UUID, now: datetime) -> None:
    BudgetWarning.objects.filter(id=warning_id).update(state=BudgetWarning.State.SENT, sent_at=now, error="")


def mark_failed(*, warning_id: UUID, reason: str, draw: float, now: datetime) -> bool:
    """Try again later, twice as late each time; True: it was given up. `draw` in [0, 1) spreads the tries."""
    row = BudgetWarning.objects.get(id=warning_id)
    is_over = row.tries >= TRIES_MAX
    pause = min(FIRST_PAUSE * 2 ** max(row.tries - 1, 0), PAUSE_MAX) * (0.8 + 0.4 * draw)
    BudgetWarning.objects.filter(id=warning_id, state=BudgetWarning.State.DUE).update(
        state=BudgetWarning.State.FAILED if is_over else BudgetWarning.State.DUE,
        next_try_at=now + pause,
        error=reason[:ERROR_CHARACTERS],
    )
    return is_over


def trial_of(*, budget_id: UUID, now: datetime) -> list[DueWarning]:
    """A message to each target of a budget as it stands, to try them; nothing is noted."""
    budget = Budget.objects.select_related("organisation", "team", "key").get(id=budget_id)
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    found = BudgetWindow.objects.filter(id=window_id(budget=budget, span=span)).first()
    window = found or BudgetWindow(id=window_id(budget=budget, span=span))
    limit = limit_at(budget, now=now)
    percent = 0 if limit == 0 else min(window.spent_nanousd * 100 // limit, 100)
    rows = [
        _row(budget, window, percent=percent, limit=limit, channel=channel, target=target, now=now)
        for channel, target in _targets(budget)
    ]
    return [_warning(row) for row in rows]


def window_id(*, budget: Budget, span: WindowSpan) -> str:
    return f"{budget.id}:{span.key}"


def _budgets() -> Iterable[Budget]:
    return Budget.objects.select_related("organisation", "team", "key").order_by("id")


def _targets(budget: Budget) -> list[tuple[str, str]]:
    emails = [(BudgetWarning.Channel.EMAIL.value, address) for address in budget.warning_emails]
    hooks = [(BudgetWarning.Channel.WEBHOOK.value, url) for url in (budget.warning_webhook,) if url]
    return emails + hooks


def _row(
    budget: Budget,
    window: BudgetWindow,
    *,
    percent: int,
    limit: int,
    channel: str,
    target: str,
    now: datetime,
) -> BudgetWarning:
    return BudgetWarning(
        budget=budget,
        window_id=window.id,
        percent=percent,
        channel=channel,
        target=target,
        limit_nanousd=limit,
        spent_nanousd=window.spent_nanousd,
        next_try_at=now,
        created_at=now,
    )


def _identity(row: BudgetWarning) -> tuple[str, int, str, str, int]:
    return row.window_id, row.percent, row.channel, row.target, row.limit_nanousd


def _warning(row: BudgetWarning) -> DueWarning:
    budget = row.budget
    kind, owner = next(
        (kind, owner)
        for kind, owner in (
            ("organisation", budget.organisation),
            ("team", budget.team),
            ("key", budget.key),
        )
        if owner is not None
    )
    span = window_of(window=budget.window, timezone=budget.timezone, now=row.created_at)
    return DueWarning(
        id=row.id,
        budget_id=budget.id,
        owner=f'{kind} "{owner.name}"',
        window=budget.window,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        is_hard=budget.is_hard,
        percent=row.percent,
        limit_nanousd=row.limit_nanousd,
        spent_nanousd=row.spent_nanousd,
        channel=row.channel,
        target=row.target,
        noticed_at=row.created_at,
    )

"""The periodic work of accounting, for Celery's beat; each task may run twice without harm."""

import logging
import time

from celery import shared_task
from django.utils import timezone

from billing import budget_warnings, grants, idempotency, ledger, partitions, pruning, rollups

logger = logging.getLogger(__name__)


@shared_task(name="billing.tasks.fold_rollups")  # type: ignore[untyped-decorator]  # Celery has no types
def fold_rollups() -> None:
    row_count = rollups.fold_days(now=timezone.now())
    logger.debug("rollups_folded rows=%s", row_count)


@shared_task(name="billing.tasks.prune_ledger")  # type: ignore[untyped-decorator]  # Celery has no types
def prune_ledger() -> None:
    if not grants.may_delete_usage():
        logger.info("prune_left_to_the_tables_owner")
        return
    partitions.make_months(now=timezone.now(), pause=time.sleep)
    pruning.prune(now=timezone.now())


@shared_task(name="billing.tasks.prune_warnings")  # type: ignore[untyped-decorator]  # Celery has no types
def prune_warnings() -> None:
    budget_warnings.prune_warnings(now=timezone.now())


@shared_task(name="billing.tasks.prune_kept_answers")  # type: ignore[untyped-decorator]  # Celery has no types
def prune_kept_answers() -> None:
    row_count = idempotency.prune_kept(now=timezone.now())
    logger.debug("kept_answers_pruned rows=%s", row_count)


@shared_task(name="billing.tasks.mark_attempts_in_doubt")  # type: ignore[untyped-decorator]  # Celery has no types
def mark_attempts_in_doubt() -> None:
    """What gateways leave that died and were not started again."""
    count = ledger.mark_in_doubt(now=timezone.now())
    if count:
        logger.warning("attempts_in_doubt count=%s", count)

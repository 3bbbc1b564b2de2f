"""The periodic work of accounting, for Celery's beat; each task may run twice without harm."""

import logging

from celery import shared_task
from django.utils import timezone

from billing import rollups

logger = logging.getLogger(__name__)


@shared_task(name="billing.tasks.fold_rollups")  # type: ignore[untyped-decorator]  # Celery has no types
def fold_rollups() -> None:
    row_count = rollups.fold_days(now=timezone.now())
    logger.debug("rollups_folded rows=%s", row_count)

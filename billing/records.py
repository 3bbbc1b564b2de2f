"""Checks and saves one row of the accounts and counts the change; names what is wrong with it."""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction

from billing.revision import bump_revision


class RecordError(ValueError):
    """An organisation, team, key, budget or limit that cannot be written: why, and what to do."""


def save_checked(*, record: models.Model, check: Callable[[Any], None] | None = None) -> None:
    """Check and save a row, new or changed; raises RecordError with what is wrong with it."""
    if check is not None:
        check(record)
    with transaction.atomic():
        try:
            record.full_clean()
        except ValidationError as error:
            raise RecordError("; ".join(_messages(error))) from error
        record.save()
        bump_revision()


def _messages(error: ValidationError) -> list[str]:
    if not hasattr(error, "error_dict"):
        return list(error.messages)
    return [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]

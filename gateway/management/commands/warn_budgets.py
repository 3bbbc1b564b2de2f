"""Sends the budget warnings that are due, once; or a trial to one budget's targets."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import budget_warnings
from gateway import notifications
from gateway.notifications import NotificationError


class Command(BaseCommand):
    help = "Send the budget warnings that are due; beat does it every few seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--test", metavar="BUDGET_ID", type=UUID, help="send a trial to its targets")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["test"] is None:
            sent, failed = notifications.send_due(now=timezone.now(), clock=timezone.now)
            self.stdout.write(f"{sent} sent, {failed} failed")
            return
        warnings = budget_warnings.trial_of(budget_id=options["test"], now=timezone.now())
        if not warnings:
            raise CommandError("this budget has nobody to warn: give it an e-mail address or a webhook")
        failures = [reason for warning in warnings if (reason := self._try(warning))]
        if failures:
            raise CommandError(f"{len(failures)} of {len(warnings)} failed")

    def _try(self, warning: budget_warnings.DueWarning) -> str:
        try:
            notifications.send(warning, now=timezone.now())
        except NotificationError as error:
            self.stdout.write(f"{warning.channel} {warning.target}: {error}")
            return str(error)
        self.stdout.write(f"{warning.channel} {warning.target}: sent")
        return ""

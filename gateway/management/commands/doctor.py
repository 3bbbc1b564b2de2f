"""`manage.py doctor`: the whole installation looked at; exit 1 where something fails."""

import json
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from gateway.doctor import FAIL, INFO, OK, WARN, Finding, Patient, examine

MARKS = {OK: "ok  ", INFO: "info", WARN: "WARN", FAIL: "FAIL"}
LOCAL_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 -- where to ask, not where to listen


class Command(BaseCommand):
    """Needs no check of Django's beforehand: it makes them itself, and says what they find."""

    help = (
        "Look at the whole installation and say what is wrong, and what to do. Exits 1 where something fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """`doctor --json` for scripts."""
        parser.add_argument("--json", action="store_true", help="one list of findings, for scripts")
        parser.add_argument("--url", default="", help="of the web process (by the settings: this machine's)")
        parser.add_argument(
            "--no-probe",
            action="store_false",
            dest="probe",
            help="do not ask the clusters, show what was seen",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Translate in, one call, translate out."""
        host = LOCAL_HOSTS.get(settings.HOST, settings.HOST)
        findings = examine(
            Patient(
                data_dir=settings.DATA_DIR,
                web_url=options["url"].rstrip("/")
                or f"http://{host}:{settings.PORT or settings.PORT_DEFAULT}",
                clock=timezone.now,
                is_probing=options["probe"],
            )
        )
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings]))
        else:
            self._print(findings)
        if any(finding.status == FAIL for finding in findings):
            raise SystemExit(1)

    def _print(self, findings: list[Finding]) -> None:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            self.stdout.write(f"{MARKS[finding.status]}  {finding.subject.ljust(width)}  {finding.text}")
        counts = {status: sum(finding.status == status for finding in findings) for status in (FAIL, WARN)}
        self.stdout.write(f"\n{counts[FAIL]} fail, {counts[WARN]} to look at.")

"""`manage.py experiment_report NAME`: what each arm of an experiment came to, with confidence intervals."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.experiment_report import load_report
from clusters.experiments import get_experiment
from clusters.inventory import InventoryError
from gateway.experiment_pages import ArmColumn, arm_columns


class Command(BaseCommand):
    help = "Compare the arms of an experiment: cost, latency, errors and feedback, with 95 % intervals."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="of the experiment, as Admin > Experiments lists it")
        parser.add_argument("--json", action="store_true", help="for programs; amounts in nano-USD")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            view = get_experiment(name=options["name"])
        except InventoryError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            arms = load_report(experiment=view.name, arms=[model for model, _ in view.arms])
            document = {
                "name": view.name,
                "route": view.route,
                "state": view.state,
                "started_at": view.started_at and view.started_at.isoformat(),
                "stopped_at": view.stopped_at and view.stopped_at.isoformat(),
                "stopped_reason": view.stopped_reason,
                "arms": [asdict(arm) for arm in arms],
            }
            self.stdout.write(json.dumps(document))
            return
        self.stdout.write(f"{view.name} on {view.route}: {view.state}")
        if view.stopped_reason:
            self.stdout.write(f"stopped: {view.stopped_reason}")
        for column in arm_columns(view, now=timezone.now()):
            self._write_arm(column)

    def _write_arm(self, column: ArmColumn) -> None:
        role = "control" if column.is_control else "arm"
        self.stdout.write(f"\n{role} {column.model}, weight {column.weight}")
        for cell in column.cells:
            interval = f"  [{cell.interval}]" if cell.interval else ""
            difference = f"  difference {cell.difference} {cell.verdict}".rstrip() if cell.difference else ""
            self.stdout.write(f"  {cell.label:<20} {cell.value:>12}{interval}{difference}")

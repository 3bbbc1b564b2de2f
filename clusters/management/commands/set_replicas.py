"""Notes how many replicas an autoscaled cluster runs, for the hook of whatever scales it."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from clusters.inventory import InventoryError, set_replica_count


class Command(BaseCommand):
    """Exits 1 where the cluster is unknown or not autoscaled."""

    help = (
        "Note how many replicas an autoscaled cluster runs from now on: each costs the cluster's price per "
        "hour. For an autoscaler's hook; it may be run as often as one likes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """`set_replicas gpu-spot 4`."""
        parser.add_argument("cluster", metavar="CLUSTER")
        parser.add_argument("replicas", metavar="N", type=int)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Translate in, one call, translate out."""
        name, count = options["cluster"], options["replicas"]
        try:
            is_changed = set_replica_count(cluster_name=name, replica_count=count, now=timezone.now())
        except InventoryError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{name} runs {count} replicas{'' if is_changed else ', as before'}.")

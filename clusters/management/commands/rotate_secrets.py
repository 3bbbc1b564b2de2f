"""Seals all clusters' secrets anew under the newest encryption key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from clusters.inventory import reseal_secrets
from clusters.vault import VaultError, newest_key_id


class Command(BaseCommand):
    """After it the older keys may leave GATEWAY_ENCRYPTION_KEYS."""

    help = (
        "Seal all clusters' secrets anew under the newest key: put the new key first in "
        "GATEWAY_ENCRYPTION_KEYS, restart, run this, then take the old key out."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        """All or none."""
        try:
            count = reseal_secrets()
            key_id = newest_key_id()
        except VaultError as error:
            raise CommandError(f"nothing was changed: {error}") from error
        self.stdout.write(f"{count} secrets are sealed under key {key_id}; older keys may go now.")

"""Seals all secrets under the newest encryption key, or exchanges one cluster's HMAC secret."""

import os
import secrets
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from clusters import rotation
from clusters.inventory import InventoryError, reseal_secrets
from clusters.vault import VaultError, newest_key_id

KEY_BYTES = 32


class Command(BaseCommand):
    """Exits 1 where nothing was changed."""

    help = (
        "Without options: seal all clusters' secrets anew under the newest encryption key (put the new key "
        "first in GATEWAY_ENCRYPTION_KEYS, restart, run this, then take the old key out). With --cluster: "
        "exchange the cluster's HMAC secret: --generate, add it at the cluster beside the old one, "
        "--activate, take the old one out there, --retire."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """`rotate_secrets --cluster metal --generate`."""
        parser.add_argument("--cluster", metavar="NAME", help="exchange the HMAC secret of this cluster")
        parser.add_argument("--label", default="", help="of the new secret; it travels as the key id")
        parser.add_argument("--to", type=Path, metavar="FILE", help="write the new secret there, not here")
        parser.add_argument(
            "--force", action="store_true", help="activate or retire without asking the cluster"
        )
        steps = parser.add_mutually_exclusive_group()
        steps.add_argument("--generate", action="store_true", help="a new secret, shown once; it waits")
        steps.add_argument("--activate", action="store_true", help="sign with the one that waits")
        steps.add_argument("--retire", action="store_true", help="wipe all but the one that signs")
        steps.add_argument("--new-key", action="store_true", help="show a new encryption key; stores nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Translate in, one call, translate out."""
        name = options["cluster"]
        steps = {"generate": self._generate, "activate": self._activate, "retire": self._retire}
        step = next((step for step in steps if options[step]), None)
        if (step is None) != (name is None):
            raise CommandError("--cluster goes with one of --generate, --activate and --retire")
        try:
            if name is not None and step is not None:
                steps[step](name, options)
            elif options["new_key"]:
                self._new_key()
            else:
                self._reseal()
        except (InventoryError, VaultError) as error:
            raise CommandError(str(error)) from error

    def _reseal(self) -> None:
        """All or none."""
        try:
            count = reseal_secrets()
            key_id = newest_key_id()
        except VaultError as error:
            raise CommandError(f"nothing was changed: {error}") from error
        self.stdout.write(f"{count} secrets are sealed under key {key_id}; older keys may go now.")

    def _new_key(self) -> None:
        self.stdout.write(
            f"{secrets.token_urlsafe(KEY_BYTES)}\n\n"
            "1. Put this first in GATEWAY_ENCRYPTION_KEYS (or in the data folder's file encryption_keys), a "
            "comma after it.\n2. Restart all processes: they open what either key sealed.\n"
            "3. manage.py rotate_secrets\n4. Take the old key out and restart again."
        )

    def _generate(self, name: str, options: dict[str, Any]) -> None:
        path: Path | None = options["to"]
        if path is not None and path.exists():
            raise CommandError(f"{path} is there already: name a new file")
        plaintext = rotation.stage(cluster_name=name, label=options["label"])
        if path is None:
            self.stdout.write(f"The new HMAC secret of {name}, shown this once:\n\n    {plaintext}\n")
        else:
            try:
                _write_private(path, plaintext)
            except OSError as error:
                raise CommandError(
                    f"{path} cannot be written ({error.strerror}), so the new secret is lost, and nothing is "
                    "signed with it: run --generate again, with another file"
                ) from error
            self.stdout.write(f"The new HMAC secret of {name} is in {path}.\n")
        self.stdout.write(
            "1. Add it beside the old one on each of its machines (clusters/verifying: one a line).\n"
            f"2. manage.py rotate_secrets --cluster {name} --activate\n"
            f"3. Wait ten seconds and take the old one out there\n"
            f"4. manage.py rotate_secrets --cluster {name} --retire"
        )

    def _activate(self, name: str, options: dict[str, Any]) -> None:
        rotation.activate(cluster_name=name, is_forced=options["force"], now=timezone.now())
        self.stdout.write(
            f"Gateways sign requests to {name} with the new secret within a second.\n"
            f"Wait ten seconds, take the old one out at the cluster, then:\n"
            f"manage.py rotate_secrets --cluster {name} --retire"
        )

    def _retire(self, name: str, options: dict[str, Any]) -> None:
        count = rotation.retire(cluster_name=name, is_forced=options["force"], now=timezone.now())
        self.stdout.write(f"{count} older secrets of {name} are wiped.")


def _write_private(path: Path, text: str) -> None:
    """Readable by this user alone, from the first moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")

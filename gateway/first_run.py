"""The first start: an administrator, an organisation, a team and a key, so that there is something to use."""

import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.contrib.auth import get_user_model

from billing import keys, principals

ADMIN_USERNAME = "admin"
# No 0 or o, 1, i or l: the password may be typed from a screen. 31^20 is 99 bits.
PASSWORD_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 -- the letters, not a password
PASSWORD_GROUPS = 4
PASSWORD_GROUP_CHARACTERS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """What this start made up, to be shown once; None where there was nothing to make up."""

    admin_username: str
    admin_password: str | None = field(repr=False)
    api_key: str | None = field(repr=False)


def prepare(*, data_dir: Path, admin_password: str, now: datetime) -> FirstRun:
    """Make what is missing, once. What was made up is also kept in `first_run_path`, for its owner alone.

    An `admin_password` that is not empty is the administrator's; it is neither shown nor kept.
    """
    made = FirstRun(
        admin_username=ADMIN_USERNAME, admin_password=_put_admin(admin_password), api_key=_put_first_key()
    )
    if made.admin_password is not None or made.api_key is not None:
        _note(made, path=first_run_path(data_dir), now=now)
    return made


def first_run_path(data_dir: Path) -> Path:
    return data_dir / "first-run.txt"


def _put_admin(password: str) -> str | None:
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    chosen = password or _readable_password()
    users.create_superuser(username=ADMIN_USERNAME, email="", password=chosen)
    return None if password else chosen


def _put_first_key() -> str | None:
    if principals.load_principals():
        return None
    organisation_id = keys.put_organisation(name="Demo")
    team_id = keys.put_team(organisation_id=organisation_id, name="demo")
    return keys.issue_key(team_id=team_id, name="first key").key


def _readable_password() -> str:
    return "-".join(
        "".join(secrets.choice(PASSWORD_ALPHABET) for _ in range(PASSWORD_GROUP_CHARACTERS))
        for _ in range(PASSWORD_GROUPS)
    )


def _note(made: FirstRun, *, path: Path, now: datetime) -> None:
    lines = [f"# Made on {now:%Y-%m-%d %H:%M} UTC by the first start. Change or delete it as you like."]
    if made.admin_password is not None:
        lines += [f"admin: {made.admin_username}", f"password: {made.admin_password}"]
    if made.api_key is not None:
        lines += [f"key: {made.api_key}"]
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")

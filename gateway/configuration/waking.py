"""How an autoscaled cluster is woken, in the configuration file: `waking`, read and written."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.catalogue import REPLICAS_MAX, WAKE_AUTHS, WAKE_PURPOSE
from gateway.configuration import conversion
from gateway.configuration.members import Field, Members, Notes, written_values
from gateway.configuration.secret_entries import SecretEntry, read_secret

KEY = "waking"
URL_CHARACTERS_MAX = 300
SECRET_KEY, SECRET_FILE_KEY = "secret", "secretFile"
FIELDS = (
    Field(key="url", target="wake_url", kind=conversion.text(length_max=URL_CHARACTERS_MAX)),
    Field(key="authType", target="wake_auth", kind=conversion.choice(*WAKE_AUTHS)),
    Field(key="warmUp", target="warm_up_s", kind=conversion.seconds(least=0)),
    Field(key="minBilling", target="billed_s_min", kind=conversion.seconds(least=0)),
    Field(key="scaleDownWindow", target="scale_down_s", kind=conversion.seconds(least=0)),
    Field(
        key="maxReplicas",
        target="replicas_max",
        kind=conversion.whole_number(least=1, most=REPLICAS_MAX),
    ),
)
# As they are told in the difference that an import makes.
TOLD_FIELDS = tuple(replace(each, key=f"{KEY}.{each.key}") for each in FIELDS)
_QUIET = {"wake_auth": "none", "billed_s_min": 0, "scale_down_s": 0, "replicas_max": 1}


def read_waking(
    members: Members, *, folder: Path, notes: Notes
) -> tuple[dict[str, Any], tuple[SecretEntry, ...]]:
    """The section's values by the inventory's words, and its secret; both empty where there is none."""
    item = members.item(KEY)
    if item is None:
        return {}, ()
    known = [*(each.key for each in FIELDS), SECRET_KEY, SECRET_FILE_KEY]
    section = Members(item, known=known, notes=notes)
    values = section.values(FIELDS)
    keys = [key for key in (SECRET_KEY, SECRET_FILE_KEY) if key in section]
    if len(keys) > 1:
        notes.refuse(section.place_of(SECRET_FILE_KEY), "the secret is there already; write it once")
    if keys and values.get("wake_auth", "none") == "none":
        text = "there is no authType beside it; write authType: bearer or hmac, or remove it"
        notes.refuse(section.place_of(keys[0]), text)
        return values, ()
    entries = [
        read_secret(
            section,
            key=key,
            purpose=WAKE_PURPOSE,
            is_file=key == SECRET_FILE_KEY,
            folder=folder,
            notes=notes,
        )
        for key in keys
    ]
    return values, tuple(entry for entry in entries if entry is not None)


def waking_lines(values: Mapping[str, Any], *, placeholder: str) -> list[str]:
    """The section as lines of YAML; none where nothing is said. `placeholder` stands for a stored secret."""
    loud = {
        each.target: values[each.target]
        for each in FIELDS
        if values[each.target] not in (None, "") and values[each.target] != _QUIET.get(each.target)
    }
    lines = [f"  {key}: {value}" for key, value in written_values(loud, fields=FIELDS).items()]
    if placeholder:
        lines.append(f"  {SECRET_KEY}: {placeholder}  # the stored value is not exported")
    return [f"{KEY}:", *lines] if lines else []

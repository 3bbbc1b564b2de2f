"""Reads the secrets of a cluster from the file, the environment or files of their own, never showing them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from clusters.inventory import LABEL_CHARACTERS_MAX, InventoryError, check_secret
from gateway.configuration import conversion
from gateway.configuration.conversion import shown
from gateway.configuration.document import Place, Scalar
from gateway.configuration.members import Members, Notes

SECRET_FILE_BYTES_MAX = 64 * 1024

# Keys whose value is the secret itself, and keys whose value is the path of a file that holds it.
VALUE_KEYS = ("sharedSecret", "apiKey")
SECRET_FILE_KEYS = ("sharedSecretFile", "apiKeyFile")
KEYS = "apiKeys"
PEM_PURPOSES = {"certFile": "client_certificate", "keyFile": "client_key", "caFile": "ca"}
_LIMITS = {"requestsPerMinute": "rpm_max", "tokensPerMinute": "tpm_max"}
_LIMIT = conversion.whole_number(least=1, most=2_147_483_647)
_KEY_NAME = conversion.text(length_max=LABEL_CHARACTERS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretEntry:
    """One secret that the file names. Without a plaintext, `missing` says which variables are not set.

    A provider's keys under `apiKeys` have names and limits of their own; None: no limit that we know.
    """

    key: str
    purpose: str
    place: Place
    plaintext: str | None = field(repr=False)
    missing: tuple[str, ...]
    name: str = ""
    rpm_max: int | None = None
    tpm_max: int | None = None


def read_secrets(
    members: Members, *, auth_type: str | None, folder: Path, notes: Notes
) -> tuple[SecretEntry, ...]:
    """Every secret of the section that fits its authType; paths are relative to the file's folder."""
    entries = [
        _read_secret(members, key=key, auth_type=auth_type, folder=folder, notes=notes)
        for key in (*VALUE_KEYS, *SECRET_FILE_KEYS, *PEM_PURPOSES)
        if key in members
    ]
    listed = _read_keys(members, auth_type=auth_type, folder=folder, notes=notes)
    found = (*(entry for entry in entries if entry is not None), *listed)
    for index, entry in enumerate(found):
        if any((each.purpose, each.name) == (entry.purpose, entry.name) for each in found[:index]):
            notes.refuse(entry.place, f"the {entry.purpose} secret is there already; write it once")
    return found


def _read_keys(members: Members, *, auth_type: str | None, folder: Path, notes: Notes) -> list[SecretEntry]:
    """The keys of `apiKeys`: each with a name, by which it is known when it changes, and its own limits."""
    found: list[SecretEntry] = []
    for item in members.listing(KEYS):
        key = Members(item, known=("name", "apiKey", "apiKeyFile", *_LIMITS), notes=notes)
        name = key.read("name", _KEY_NAME)
        given = [source for source in ("apiKey", "apiKeyFile") if source in key]
        if name is None or len(given) != 1:
            notes.refuse(key.place, "a key needs a name, and apiKey or apiKeyFile; write both")
            continue
        entry = _read_secret(key, key=given[0], auth_type=auth_type, folder=folder, notes=notes)
        if entry is not None:
            limits = {target: key.read(each, _LIMIT) for each, target in _LIMITS.items()}
            found.append(replace(entry, key="apiKey", name=name, **limits))
    return found


def needed_purposes(auth_type: str) -> tuple[str, ...]:
    """The secrets without which a cluster cannot be reached."""
    needed = {
        "hmac": ("hmac",),
        "bearer": ("bearer",),
        "mtls": ("client_certificate", "client_key"),
        "sigv4": ("sigv4",),
    }
    return needed.get(auth_type, ())


def _read_secret(
    members: Members, *, key: str, auth_type: str | None, folder: Path, notes: Notes
) -> SecretEntry | None:
    purpose = _purpose(key=key, auth_type=auth_type)
    if purpose is None:
        fitting = "mtls" if key in PEM_PURPOSES else "hmac, bearer or sigv4"
        found = f"authType is {auth_type}" if auth_type else "there is no authType"
        notes.refuse(members.place_of(key), f"{found} beside it; write authType: {fitting}, or remove it")
        return None
    return read_secret(
        members, key=key, purpose=purpose, is_file=key not in VALUE_KEYS, folder=folder, notes=notes
    )


def read_secret(
    members: Members, *, key: str, purpose: str, is_file: bool, folder: Path, notes: Notes
) -> SecretEntry | None:
    """The secret under a key, or in the file that it names; what cannot be one is noted."""
    item = members.item(key)
    if not isinstance(item, Scalar):
        kind = shown(item) if item else "nothing"
        notes.refuse(members.place_of(key), f"found {kind}; write one text")
        return None
    if item.missing:
        return SecretEntry(key=key, purpose=purpose, place=item.place, plaintext=None, missing=item.missing)
    plaintext = _file_text(item, folder=folder, notes=notes) if is_file else item.text
    if plaintext is None:
        return None
    try:
        check_secret(purpose=purpose, plaintext=plaintext)
    except InventoryError as error:
        notes.refuse(item.place, str(error))
        return None
    return SecretEntry(key=key, purpose=purpose, place=item.place, plaintext=plaintext, missing=())


def _purpose(*, key: str, auth_type: str | None) -> str | None:
    if key in PEM_PURPOSES:
        return PEM_PURPOSES[key] if auth_type == "mtls" else None
    return auth_type if auth_type in {"hmac", "bearer", "sigv4"} else None


def _file_text(item: Scalar, *, folder: Path, notes: Notes) -> str | None:
    path = folder / item.text
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        notes.refuse(item.place, f"cannot read the file {shown(item)} ({reason}); write the path of one")
        return None
    if len(content) > SECRET_FILE_BYTES_MAX:
        notes.refuse(item.place, f"the file {shown(item)} is over {SECRET_FILE_BYTES_MAX} bytes; shorten it")
        return None
    return text

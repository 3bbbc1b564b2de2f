"""One signed GET to a cluster, with bounds on time and size, and the reasons why it fails."""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from clusters.signing import Signer, TlsIdentity

BODY_BYTES_MAX = 4 * 1024 * 1024
ANTHROPIC_VERSION = "2023-06-01"


class Place(Protocol):
    """What it takes to connect to an address that somebody entered."""

    @property
    def endpoint(self) -> str: ...
    @property
    def allow_private_network(self) -> bool: ...
    @property
    def tls(self) -> TlsIdentity | None: ...


class ProbeTarget(Place, Protocol):
    """What a probe needs to know of a cluster; `clusters.snapshots.ClusterView` is one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def auth_type(self) -> str: ...
    @property
    def signer(self) -> Signer: ...
    @property
    def secret_problem(self) -> str: ...
    @property
    def discovery(self) -> str: ...
    @property
    def deployments(self) -> Sequence[object]: ...


class ProbeError(Exception):
    """The cluster is not healthy, and why; `is_conclusive` where no second look is needed."""

    def __init__(self, reason: str, *, is_conclusive: bool = False, is_absent: bool = False) -> None:
        """`reason` is shown to operators; `is_absent`: nobody is there, as where no replica runs."""
        super().__init__(reason)
        self.reason = reason
        self.is_conclusive = is_conclusive
        self.is_absent = is_absent


class CertificateExpiredError(ProbeError):
    """The cluster's own certificate has expired; the handshake that fails does not say when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, whole; `duration_ms` until its last byte."""

    status: int
    body: bytes
    duration_ms: int


class Exchange:
    """The requests of one probe: each signed, each with a nonce of its own."""

    def __init__(self, *, cluster: ProbeTarget, client: httpx.AsyncClient, now_s: int, nonce: str) -> None:
        """`nonce` is unlike any other probe's."""
        self._cluster = cluster
        self._client = client
        self._now_s = now_s
        self._nonce = nonce
        self._request_count = 0
        self._started = time.monotonic()
        self.clock_skew_s: int | None = None  # by the Date header; positive where the cluster's is ahead
        self.certificate_expires_at: datetime | None = None  # the server's

    async def get(self, path: str) -> Reply:
        """The reply, whatever its status but 401 and 403; `ProbeError` where there is none."""
        url = httpx.URL(f"{self._cluster.endpoint}{path}")
        started = time.monotonic()
        try:
            async with self._client.stream("GET", url, headers=self._headers(url)) as response:
                self._note(response)
                body = await _bounded_body(response)
        except httpx.HTTPError as error:
            raise _as_probe_error(error) from error
        if response.status_code in {401, 403}:
            raise ProbeError(
                f"credential refused (HTTP {response.status_code} from {path}): store the right secret",
                is_conclusive=True,
            )
        return Reply(
            status=response.status_code,
            body=body,
            duration_ms=round((time.monotonic() - started) * 1000),
        )

    def _note(self, response: httpx.Response) -> None:
        """Keep what the answer tells beside its body: the cluster's clock and its certificate's end."""
        elapsed_s = time.monotonic() - self._started
        told_at = _date(response.headers.get("date", ""))
        if told_at is not None:
            apart_s = round(told_at.timestamp() - self._now_s - elapsed_s)
            # Both clocks are read in whole seconds: one apart is none.
            self.clock_skew_s = apart_s if abs(apart_s) > 1 else 0
        stream = response.extensions.get("network_stream")
        tls = None if stream is None else stream.get_extra_info("ssl_object")
        if tls is not None and (expires := (tls.getpeercert() or {}).get("notAfter")):
            self.certificate_expires_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(expires), UTC)

    def _headers(self, url: httpx.URL) -> list[tuple[str, str]]:
        self._request_count += 1
        signed = self._cluster.signer.headers(
            method="GET",
            authority=url.netloc.decode(),
            path=url.raw_path.decode().partition("?")[0],
            query=url.query.decode(),
            body=b"",
            now_s=self._now_s,
            nonce=f"{self._nonce}.{self._request_count}",
        )
        own = [("accept-encoding", "identity"), ("user-agent", "tollgate-probe")]
        if self._cluster.backend == "claude":
            own.append(("anthropic-version", ANTHROPIC_VERSION))
        return [*own, *signed]


def _date(text: str) -> datetime | None:
    """RFC 9110, 5.6.7; None for what is none, or says no zone."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


async def _bounded_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProbeError(f"answers more than {BODY_BYTES_MAX} bytes to a health request")
    return bytes(body)


def _as_probe_error(error: httpx.HTTPError) -> ProbeError:
    """The cause decides: 'refused' needs no second look, the rest may be a hiccup."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 5:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    text = " ".join(texts).lower()
    if isinstance(error, httpx.ConnectTimeout):
        words = "no connection within the time-out: check address, port and firewall"
        return ProbeError(words, is_absent=True)
    if isinstance(error, httpx.TimeoutException):
        return ProbeError("connected, but no answer within the time-out", is_absent=True)
    if "certificate" in text or "ssl" in text:
        kind = CertificateExpiredError if "certificate has expired" in text else ProbeError
        return kind(f"TLS failed: {error}")
    if isinstance(error, httpx.ConnectError):
        if "refused" in text:
            words = "connection refused: is the server running there?"
            return ProbeError(words, is_conclusive=True, is_absent=True)
        return ProbeError(f"no connection: {error}", is_absent=True)
    return ProbeError(f"the connection broke: {type(error).__name__}", is_absent=True)

"""Says which endpoints and addresses the gateway may ever connect to (no metadata services, ever)."""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Link-local ranges and the addresses at which clouds hand out credentials.
NETWORKS_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "fe80::/10",
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure's WireServer
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS over IPv6
        "fd20:ce::254/128",  # Google Cloud over IPv6
        "fd00:42::42/128",  # Scaleway
    )
)
HOSTS_REFUSED = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.com",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HOST_BYTES_MAX = 253
EXPANDED_MAX = 64
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
# What the C library reads as an address although it is no dotted quad: 127.1, 0x7f000001, 2130706433.
_DISGUISED_ADDRESS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")


class EndpointError(ValueError):
    """The endpoint or address is one that we never connect to; the message says what to enter instead."""


def normal_endpoint(url: str) -> str:
    """The endpoint as we keep it: no spaces around, no trailing slash, no trailing /v1."""
    return url.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def expanded_addresses(found: Collection[str]) -> tuple[str, ...]:
    """Of a name's addresses those that are servers of their own, each once, at most `EXPANDED_MAX`.

    A server with an IPv4 address is not counted again for its IPv6 one.
    """
    four = {address for address in found if ":" not in address}
    return tuple(sorted(four or set(found))[:EXPANDED_MAX])


def check_endpoint(*, url: str, allow_private: bool) -> None:
    """Raise `EndpointError` unless the URL may be a cluster's base; asks no resolver.

    A name may still resolve to a refused address: `check_address` judges what is connected to.
    """
    if any(character.isspace() or ord(character) < 32 for character in url) or "\\" in url:
        raise EndpointError("the endpoint has spaces or control characters in it: enter a plain URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise EndpointError(f"the endpoint is no URL ({error}): write it as https://host:port") from error
    if parts.scheme not in {"http", "https"}:
        raise EndpointError("the endpoint must begin with http:// or https://")
    if "@" in parts.netloc:
        raise EndpointError("the endpoint must not contain credentials: store them as the cluster's secret")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise EndpointError("the endpoint must be a base URL without '?' or '#'")
    if port == 0:
        raise EndpointError("the endpoint's port must be between 1 and 65535")
    _check_host(host=host, allow_private=allow_private)


def check_address(*, address: str, allow_private: bool) -> None:
    """Raise `EndpointError` unless we may connect to this IP address (as text, a zone allowed)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError as error:
        raise EndpointError(f"{address!r} is no IP address") from error
    for candidate in (parsed, *_embedded(parsed)):
        is_refused = candidate.is_multicast or candidate.is_unspecified or candidate.is_link_local
        if is_refused or any(
            candidate.version == network.version and candidate in network for network in NETWORKS_REFUSED
        ):
            raise EndpointError(
                f"{address} is a metadata, link-local or otherwise reserved address, "
                f"which is never connected to: enter the cluster's own address"
            )
        # The wrapper of an embedded address is never global itself: the embedded one decides.
        if not allow_private and not candidate.is_global and not _embedded(candidate):
            raise EndpointError(
                f"{address} is a private or loopback address: tick 'allow private network' for this "
                f"cluster if that is meant"
            )


def _check_host(*, host: str, allow_private: bool) -> None:
    name = host.lower().rstrip(".")
    if not name or len(name) > HOST_BYTES_MAX:
        raise EndpointError("the endpoint has no host: write it as https://host:port")
    if name in HOSTS_REFUSED:
        raise EndpointError(f"{host} is a cloud's metadata service, which is never connected to")
    if ":" in name or _is_dotted_quad(name):
        check_address(address=name, allow_private=allow_private)
        return
    if _DISGUISED_ADDRESS.fullmatch(name):
        raise EndpointError(f"{host} is an address in disguise: write four decimal numbers, like 192.0.2.1")
    if not _HOST.fullmatch(name):
        raise EndpointError(f"{host} is no host name: use letters, digits, '-' and '.'")
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        raise EndpointError(
            f"{host} is this machine: tick 'allow private network' for this cluster if that is meant"
        )


def _is_dotted_quad(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _embedded(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return tuple(one for one in found if one is not None)

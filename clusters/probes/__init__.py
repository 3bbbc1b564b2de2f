"""Asks a cluster how it is, by its free endpoints only: health, load, speed, models."""

from clusters.probes.connection import open_client, resolve_addresses
from clusters.probes.exchange import ProbeTarget
from clusters.probes.joining import joined
from clusters.probes.prober import probe

__all__ = ["ProbeTarget", "joined", "open_client", "probe", "resolve_addresses"]

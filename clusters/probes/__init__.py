"""Asks a cluster how it is, by its free endpoints only: health, load, speed, models."""

from clusters.probes.connection import open_client
from clusters.probes.exchange import ProbeTarget
from clusters.probes.prober import probe

__all__ = ["ProbeTarget", "open_client", "probe"]

"""What gateways' live traffic says of clusters: noted for the admin, and a reason to probe at once."""

from collections.abc import Collection, Mapping
from datetime import datetime

from clusters.models import Cluster


def note_traffic(*, avoided: Mapping[str, datetime], recovered: Collection[str], now: datetime) -> None:
    """Note which clusters failed a gateway's requests, by name until when it avoids each, and who is back.

    Gateways see different things: the latest word of any of them is kept, and ends by itself at its time.
    """
    # In one order everywhere: gateways write at the same time.
    for name, until in sorted(avoided.items()):
        Cluster.objects.filter(name=name).update(traffic_failed_at=now, traffic_avoided_until=until)
    if recovered:
        Cluster.objects.filter(name__in=recovered).update(traffic_avoided_until=None)

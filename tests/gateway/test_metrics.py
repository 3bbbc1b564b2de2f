"""What is told at /metrics of the snapshot, whatever was told before."""

from gateway import metrics


def lines(name):
    return [line for line in metrics.exposition().decode().splitlines() if line.startswith(f"{name}{{")]


def test_cluster_that_is_gone_is_told_no_more():
    metrics.CLUSTER_HEALTH.put({("old", "hetzner", "eu-1"): 1})
    metrics.CLUSTER_HEALTH.put({("new", "hetzner", "eu-1"): 0})

    told = lines("llm_router_cluster_health")
    metrics.CLUSTER_HEALTH.put({})
    assert told == ['llm_router_cluster_health{cluster="new",provider="hetzner",region="eu-1"} 0.0']
    assert lines("llm_router_cluster_health") == []

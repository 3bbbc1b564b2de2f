"""Sees what the probes of a name's addresses saw as one cluster (pure)."""

from collections.abc import Iterable, Mapping

from clusters.health import Observation


def joined(observations: Mapping[str, Observation]) -> Observation:
    """One observation of all, by address: healthy where any is, with what the healthy ones say together.

    Queues, running requests and speeds add up; a prompt may go to any, so latencies are those of the slowest
    and context windows those of the least. What none of them says is unknown. The clock is the one that is
    furthest apart, the certificate the one that ends first, of those that fail too.
    """
    assert observations
    healthy = [each for each in observations.values() if each.is_healthy]
    failed = {address: each for address, each in observations.items() if not each.is_healthy}
    count = len(observations)
    skews_s = [each.clock_skew_s for each in observations.values() if each.clock_skew_s is not None]
    ends = [each.certificate_expires_at for each in observations.values() if each.certificate_expires_at]
    clock_skew_s = max(skews_s, key=abs, default=None)
    certificate_expires_at = min(ends, default=None)
    reason = ""
    if failed:
        address, first = next(iter(failed.items()))
        reason = f"{len(failed)} of {count} addresses fail, {address}: {first.reason}"
    if not healthy:
        return Observation(
            is_healthy=False,
            reason=reason,
            is_conclusive=all(each.is_conclusive for each in failed.values()),
            is_absent=all(each.is_absent for each in failed.values()),
            address_count=count,
            healthy_address_count=0,
            clock_skew_s=clock_skew_s,
            certificate_expires_at=certificate_expires_at,
        )
    return Observation(
        is_healthy=True,
        reason=reason,
        duration_ms=max(each.duration_ms for each in healthy),
        queue_depth=_sum(each.queue_depth for each in healthy),
        running_count=_sum(each.running_count for each in healthy),
        generated_tokens_total=_sum(each.generated_tokens_total for each in healthy),
        tokens_per_s=_sum(each.tokens_per_s for each in healthy),
        ttft_ms=max((each.ttft_ms for each in healthy if each.ttft_ms is not None), default=None),
        models=_models(healthy),
        context_windows=_context_windows(healthy),
        address_count=count,
        healthy_address_count=len(healthy),
        clock_skew_s=clock_skew_s,
        certificate_expires_at=certificate_expires_at,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _models(healthy: Iterable[Observation]) -> tuple[str, ...] | None:
    """Those that each of them lists: the requests of a model may go to any."""
    listed = [each.models for each in healthy if each.models is not None]
    if not listed:
        return None
    return tuple(name for name in listed[0] if all(name in models for models in listed))


def _context_windows(healthy: Iterable[Observation]) -> tuple[tuple[str, int], ...]:
    least: dict[str, int] = {}
    for each in healthy:
        for name, tokens in each.context_windows:
            least[name] = min(tokens, least.get(name, tokens))
    return tuple(least.items())

"""The named points at which tests/crash/server.py kills a gateway, and what must hold after each.

`traffic` says what makes a gateway pass the point: a request of that kind (tests/crash/clients.py), or
`start` and `stop` of the process, or a `change` of the control plane. `leaves` are the states of that
request's attempts once another gateway has started, first attempt first. Only where `may_be_complete`
can its caller have seen the end of the answer.
"""

from dataclasses import dataclass

# Said by errors that the harness makes: tests/crash/fleet.py lets them pass in the log.
INJECTED = "injected by the crash harness"
NOTHING: tuple[str, ...] = ()
DOUBT = ("in_doubt",)
SETTLED = ("settled",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    name: str
    traffic: str
    leaves: tuple[str, ...]
    may_be_complete: bool


def _point(name: str, traffic: str, leaves: tuple[str, ...], *, may_be_complete: bool = False) -> Point:
    return Point(name=name, traffic=traffic, leaves=leaves, may_be_complete=may_be_complete)


POINTS = (
    # 1. Hold. What was not committed was never there, and nothing was sent.
    _point("hold.before_commit", "plain", NOTHING),
    _point("hold.in_transaction", "stream", NOTHING),
    _point("hold.after_commit", "plain", DOUBT),
    _point("hold.resolved", "stream", DOUBT),
    # 2. Send. The upstream knows no attempt but those that are held.
    _point("send.before", "stream", DOUBT),
    _point("send.after", "stream", DOUBT),
    # 3. Relay. The caller saw no more than was held, and no end.
    _point("relay.first_chunk", "stream", DOUBT),
    _point("relay.first_chunk_passed", "stream", DOUBT),
    _point("relay.middle_chunk", "stream", DOUBT),
    _point("relay.end", "stream", DOUBT),
    _point("plain.read", "plain", DOUBT),
    _point("checkpoint.in_transaction", "slow", DOUBT),
    _point("checkpoint.after_commit", "slow", DOUBT),
    # 4. Settle. State, row, windows and rollups change together or not at all; no end before.
    _point("settle.before_commit", "stream", DOUBT),
    _point("settle.closed", "stream", DOUBT),
    _point("settle.in_transaction", "plain", DOUBT),
    _point("settle.after_commit", "stream", SETTLED),
    _point("settle.resolved", "plain", SETTLED, may_be_complete=True),
    # 5. The last byte.
    _point("done.before", "stream", SETTLED),
    _point("done.after", "stream", SETTLED, may_be_complete=True),
    _point("reply.before", "plain", SETTLED),
    _point("reply.after", "plain", SETTLED, may_be_complete=True),
    # 6. Failover. The failed attempt ends in the transaction that holds for the next.
    _point("failover.before_commit", "failover", DOUBT),
    _point("failover.in_transaction", "failover", DOUBT),
    _point("failover.after_commit", "failover", ("void", "in_doubt")),
    # 7. Release. The COMMIT of a hold got no answer: nothing is sent, and the hold goes.
    _point("release.before", "plain", DOUBT),
    _point("release.in_transaction", "plain", DOUBT),
    _point("release.after_commit", "plain", ("void",)),
    # 8. The process. What the dead held is marked by the next that gets so far; a stop leaves nothing.
    _point("fleet.reload", "change", DOUBT),
    _point("start.claimed", "start", DOUBT),
    _point("start.before_mark", "start", DOUBT),
    _point("start.after_mark", "start", DOUBT),
    _point("stop.before_release", "stop", SETTLED, may_be_complete=True),
    _point("stop.after_release", "stop", SETTLED, may_be_complete=True),
)
BY_NAME = {point.name: point for point in POINTS}

"""The named points at which tests/crash/server.py kills a gateway, and what must hold after each.

`traffic` says what makes a gateway pass the point: requests of that kind (tests/crash/clients.py), or
`start` and `stop` of the process, or a `change` of the control plane.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    name: str
    traffic: str
    holds: str


def _point(name: str, traffic: str, holds: str) -> Point:
    return Point(name=name, traffic=traffic, holds=holds)


POINTS = (
    # 1. Hold
    _point("hold.before_commit", "plain", "no row, nothing sent: as if never asked"),
    _point(
        "hold.in_transaction",
        "stream",
        "the inserted row is rolled back, and the window with it; nothing sent",
    ),
    _point("hold.after_commit", "plain", "in doubt, nothing sent: free of output, its hold comes back"),
    _point("hold.resolved", "stream", "in doubt, nothing sent"),
    # 2. Send
    _point("send.before", "stream", "in doubt, nothing sent"),
    _point("send.after", "stream", "in doubt; the upstream knows it, the caller saw nothing"),
    # 3. Relay
    _point("relay.first_chunk", "stream", "in doubt; read from the upstream, the caller saw nothing"),
    _point("relay.first_chunk_passed", "stream", "in doubt; the caller saw no more than was held"),
    _point("relay.middle_chunk", "stream", "in doubt; the caller saw no more than was held"),
    _point("relay.end", "stream", "in doubt; all content passed on, no [DONE]"),
    _point("plain.read", "plain", "in doubt; the whole answer read, the caller saw nothing"),
    _point(
        "checkpoint.in_transaction", "slow", "in doubt; the note of progress is rolled back, its hold stands"
    ),
    _point("checkpoint.after_commit", "slow", "in doubt; charged for what was noted"),
    # 4. Settle
    _point("settle.before_commit", "stream", "in doubt; no row, no [DONE]"),
    _point("settle.closed", "stream", "closing is rolled back: in doubt, no row, no [DONE]"),
    _point("settle.in_transaction", "plain", "row, windows and rollups are rolled back together: in doubt"),
    _point("settle.after_commit", "stream", "one exact row, no [DONE]"),
    _point("settle.resolved", "plain", "one exact row, the caller may not have seen the answer"),
    # 5. The last byte
    _point("done.before", "stream", "one exact row, no [DONE]"),
    _point("done.after", "stream", "one exact row, [DONE] seen or not"),
    _point("reply.before", "plain", "one exact row, the caller saw nothing"),
    _point("reply.after", "plain", "one exact row, the answer seen or not"),
    # 6. Failover: the failed attempt ends in the transaction that holds for the next
    _point("failover.before_commit", "failover", "the first attempt in doubt, the second not there"),
    _point("failover.in_transaction", "failover", "the first attempt in doubt, the second not there"),
    _point("failover.after_commit", "failover", "the first attempt void, the second in doubt"),
    # 7. The process
    _point(
        "fleet.reload", "change", "what ran is in doubt or settled; the next start reads the new revision"
    ),
    _point("start.claimed", "start", "nothing marked yet: the next start marks it"),
    _point("start.before_mark", "start", "nothing marked: the next start marks it"),
    _point("start.after_mark", "start", "all of the dead is in doubt already"),
    _point(
        "stop.before_release", "stop", "everything settled before; the owner dies without giving up its lock"
    ),
    _point("stop.after_release", "stop", "everything settled, nothing left to mark"),
)
BY_NAME = {point.name: point for point in POINTS}

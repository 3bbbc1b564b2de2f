"""Spreads the requests of one cluster over the addresses of its name, each of which is its own server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from gateway.transport import Answer, Transport

# An address that failed is not asked for so long, unless all others fail too.
REST_S = 5.0
# Of one request; each may take the connection's time-out.
ADDRESSES_TRIED_MAX = 3
# A proxy that has nobody behind it, a server that starts or ends.
ABSENT_STATUSES = frozenset({502, 503, 504})
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(slots=True, kw_only=True, eq=False)
class _Place:
    transport: Transport
    rest_until_s: float = 0.0
    used_number: int = 0


class Spread:
    """To the address with the fewest requests, of several the one not used for longest.

    Who cannot be connected to rests, and the next one is tried, since nothing was sent. An address that the
    name has no more takes nothing new; what runs there goes on.
    """

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        make: Callable[[str], Transport],
        clock: Callable[[], float],
    ) -> None:
        """`make` gives the transport to one address."""
        self._make = make
        self._clock = clock
        self._used_count = 0
        self._places: dict[str, _Place] = {}
        self.move(addresses)

    @property
    def up_count(self) -> int:
        """How many addresses are not known to fail."""
        now_s = self._clock()
        return sum(place.rest_until_s <= now_s for place in self._places.values())

    async def send(self, *, head: bytes, body: bytes) -> Answer:
        """As `Transport.send`, by one address or the next."""
        places = list(self._places.values())
        for tries_left in reversed(range(min(len(places), ADDRESSES_TRIED_MAX))):
            place = self._best(places)
            places.remove(place)
            self._used_count += 1
            place.used_number = self._used_count
            try:
                answer = await place.transport.send(head=head, body=body)
            except httpx.TransportError as error:
                # A full pool says nothing of the server.
                if not isinstance(error, httpx.PoolTimeout | httpx.LocalProtocolError):
                    place.rest_until_s = self._clock() + REST_S
                if not isinstance(error, NOT_SENT) or not tries_left:
                    raise
            else:
                is_absent = answer.status in ABSENT_STATUSES
                place.rest_until_s = self._clock() + REST_S if is_absent else 0.0
                return answer
        raise AssertionError("a name has an address at least")

    def move(self, addresses: Sequence[str]) -> None:
        """The name has these addresses now."""
        assert addresses
        for address in [each for each in self._places if each not in addresses]:
            # What is in use is closed when it is given back.
            self._places.pop(address).transport.pool.close()
        for address in addresses:
            if address not in self._places:
                self._places[address] = _Place(transport=self._make(address))

    async def aclose(self) -> None:
        """Close what is idle; what is in use closes when it is given back."""
        for place in self._places.values():
            await place.transport.aclose()

    def _best(self, places: Sequence[_Place]) -> _Place:
        now_s = self._clock()
        return min(
            places,
            key=lambda place: (
                place.rest_until_s > now_s,
                place.transport.pool.in_use_count,
                place.used_number,
            ),
        )

"""The policy `weighted`: traffic in proportion to the weights that the route gives its clusters."""

from hashlib import blake2b
from math import log

from routing.scoring import AFTER, ScoreInput

HASH_BYTES = 7  # what a float holds exactly


def score_weighted(given: ScoreInput) -> float:
    """Each cluster first with a chance of its weight over the sum of the weights of those eligible.

    A race of exponential clocks (Efraimidis and Spirakis 2006): who runs at twice the rate is first twice as
    often, whoever else takes part, and each clock is read from the draw and its own id alone. Weight 0 is a
    last resort.
    """
    digest = blake2b(f"{given.draw!r} {given.deployment.id}".encode(), digest_size=HASH_BYTES).digest()
    clock = -log((int.from_bytes(digest, "big") + 1) / (256**HASH_BYTES + 1))
    return clock / given.weight if given.weight else AFTER + clock

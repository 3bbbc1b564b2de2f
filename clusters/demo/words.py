"""The small text that every demo model speaks from."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from functools import cache

# Punctuation stands apart, so that the tiny model can take it as tokens of its own.
TEXT = """\
the gateway sends each request to the cheapest healthy cluster . the cluster answers with a stream of tokens .
every token has a price and every price has a day . the router keeps a session on one cluster while the prompt cache is warm .
when a cluster is slow the gateway waits , then tries the next cluster , and the bill shows both . a budget stops a key before the money is gone .
the health check asks each cluster how long its queue is . a long queue is a slow answer . the operator reads the report and moves the traffic .
"""  # noqa: E501 -- four lines of prose read better than eight halves


@cache
def follower_words() -> Mapping[str, tuple[str, ...]]:
    """Each word of the text with the words that follow it, the last one followed by the first.

    Punctuation is joined to its word here: a stand-in's word holds no space and is one token.
    """
    words = TEXT.replace(" .", ".").replace(" ,", ",").split()
    followers: dict[str, list[str]] = {word: [] for word in words}
    for word, follower in zip(words, words[1:] + words[:1], strict=True):
        followers[word].append(follower)
    return {word: tuple(found) for word, found in followers.items()}


def spoken_words(*, seed: int, prompt: str, choice: int) -> Iterator[str]:
    """Endless readable words; the same three arguments always give the same words."""
    draw = seeded_random(seed=seed, topic=f"{choice}:{prompt}")
    followers = follower_words()
    word = "the"
    while True:
        yield word
        word = draw.choice(followers[word])


def natural_length(*, seed: int, prompt: str, choice: int) -> int:
    """How many words the model says when nobody sets a limit: 12 to 80."""
    return seeded_random(seed=seed, topic=f"length:{choice}:{prompt}").randint(12, 80)


def seeded_random(*, seed: int, topic: str) -> random.Random:
    digest = hashlib.sha256(f"{seed}:{topic}".encode("utf-8", "surrogatepass")).digest()
    return random.Random(digest)  # noqa: S311 -- repeatable on purpose, guards nothing

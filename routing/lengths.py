"""How long answers are, by the size of the prompt: what is expected of the next one, as a pure fold."""

from msgspec import Struct

BUCKETS = 24
DECAY = 0.99
TOKENS_START = 200.0
WEIGHT_START = 5.0


class Lengths(Struct, frozen=True):
    """Decayed sums of output tokens and answers, a pair for each power of two of prompt tokens."""

    sums: tuple[tuple[float, float], ...] = ((TOKENS_START * WEIGHT_START, WEIGHT_START),) * BUCKETS


def expected_tokens(lengths: Lengths, *, prompt_tokens: int) -> float:
    tokens, answers = lengths.sums[_bucket(prompt_tokens)]
    return tokens / answers


def on_answer(lengths: Lengths, *, prompt_tokens: int, output_tokens: int) -> Lengths:
    bucket = _bucket(prompt_tokens)
    tokens, answers = lengths.sums[bucket]
    learnt = (tokens * DECAY + output_tokens, answers * DECAY + 1.0)
    return Lengths((*lengths.sums[:bucket], learnt, *lengths.sums[bucket + 1 :]))


def _bucket(prompt_tokens: int) -> int:
    return min(prompt_tokens.bit_length(), BUCKETS - 1)

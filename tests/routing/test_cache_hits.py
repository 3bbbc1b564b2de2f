import pytest

from routing.cache_hits import NOTHING_READ, TAU_S, hit_share, on_answer
from routing.learning import NOTHING_LEARNT, Finished, observe


def test_share_is_of_tokens_not_of_answers():
    hits = on_answer(NOTHING_READ, read_tokens=0, input_tokens=100, now_s=0.0)
    hits = on_answer(hits, read_tokens=900, input_tokens=900, now_s=0.0)

    assert hit_share(hits, now_s=0.0) == pytest.approx(0.9)
    assert hit_share(NOTHING_READ, now_s=0.0) is None


def test_share_follows_what_came_lately_and_is_forgotten():
    hits = on_answer(NOTHING_READ, read_tokens=1000, input_tokens=1000, now_s=0.0)
    later = on_answer(hits, read_tokens=0, input_tokens=1000, now_s=5 * TAU_S)

    assert hit_share(later, now_s=5 * TAU_S) < 0.01
    assert hit_share(hits, now_s=TAU_S) == 1.0
    assert hit_share(hits, now_s=8 * TAU_S) is None


def test_state_learns_it_from_ended_answers():
    event = Finished(sent_s=0.0, output_tokens=1, input_tokens=80, cache_read_tokens=60)
    estimate = Finished(sent_s=0.0, output_tokens=1)

    assert hit_share(observe(NOTHING_LEARNT, event, 1.0).cache_hits, now_s=1.0) == pytest.approx(0.75)
    assert observe(NOTHING_LEARNT, estimate, 1.0).cache_hits == NOTHING_READ

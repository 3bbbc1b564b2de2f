"""What processes tell of each other adds up: to one event that teaches as much as their own events did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import breaker, quota
from routing.forecast import Lesson
from routing.learning import (
    NOTHING_LEARNT,
    Abandoned,
    Dispatched,
    Failed,
    Finished,
    FirstToken,
    Presumed,
    Shared,
    observe,
)
from routing.sharing import (
    BACKLOG_TOKENS,
    FIELDS,
    IN_FLIGHT,
    OPEN_UNTIL_US,
    REQUESTS,
    TOKENS,
    Others,
    Sum,
    new_row,
    note,
)


def told(*events, now_s=100.0, state=NOTHING_LEARNT, row=None):
    """The row and the state after the events."""
    row = row or new_row()
    for event in events:
        before, state = state, observe(state, event, now_s)
        note(row, event, before=before, after=state)
    return tuple(row), state


def others_of(*rows):
    others = Others()
    for number, row in enumerate(rows):
        others.meet(f"p{number}", {})
        others.hear(f"p{number}", "d", row)
    return others


SENT = Dispatched(sent_s=99.0, prompt_tokens=700, tokens=900.0, requests_per_min=60, tokens_per_min=90_000)
FIRST = FirstToken(ttft_ms=500.0, prompt_tokens=700, tokens_in_front=1000, expected_s=0.3, is_missed=True)


def test_backlog_and_requests_of_all_tellers_stand():
    two, _ = told(SENT, SENT)
    one, _ = told(SENT)

    assert others_of(two, one).news() == [
        (
            "d",
            Shared(
                in_flight=3,
                backlog_tokens=2100,
                requests=3,
                tokens=2700.0,
                requests_per_min=60,
                tokens_per_min=90_000,
            ),
        )
    ]


def test_lesson_is_told_as_it_was_learnt():
    row, _ = told(SENT, FIRST, FIRST)
    ((_, shared),) = others_of(row).news()

    lesson = FIRST.lesson() + FIRST.lesson()
    assert shared.lesson == Lesson(
        drained_tokens=1400,
        count=2,
        error_sum=pytest.approx(lesson.error_sum, abs=1e-8),
        error_square_sum=pytest.approx(lesson.error_square_sum, abs=1e-8),
        missed_count=2,
        slope_s=pytest.approx(0.0005),
    )


def test_presumed_first_tokens_drain_and_teach_nothing():
    row, _ = told(SENT, Presumed(prompt_tokens=700))
    ((_, shared),) = others_of(row).news()

    assert (shared.backlog_tokens, shared.lesson) == (0, Lesson(drained_tokens=700))


def test_news_are_told_once():
    row, state = told(SENT)
    others = others_of(row)
    others.news()
    nothing = others.news()
    others.hear("p0", "d", told(Abandoned(sent_s=99.0, unseen_tokens=700), state=state, row=list(row))[0])

    assert (nothing, others.news()) == ([], [("d", Shared())])


def test_dead_teller_leaves_neither_backlog_nor_requests_but_what_it_used():
    row, _ = told(SENT, SENT)
    others = others_of(row)
    others.forget("p0")
    ((_, shared),) = others.news()

    assert (shared.in_flight, shared.backlog_tokens, shared.requests, shared.tokens) == (0, 0, 2, 1800.0)


def test_forgetting_a_stranger_changes_nothing():
    others = others_of(told(SENT)[0])
    others.news()
    others.forget("stranger")

    assert others.news() == []


def test_past_of_a_teller_that_was_met_late_does_not_count():
    row, _ = told(SENT, SENT, FIRST)
    others = Others()
    others.meet("p0", {"d": row})

    assert others.news() == [("d", Shared(in_flight=2, backlog_tokens=700))]


def test_refusal_empties_the_mirrored_bucket_of_who_hears():
    refused = Failed(sent_s=99.0, draw=0.5, is_rate_limited=True, requests_per_min=60, tokens_per_min=90_000)
    ((_, shared),) = others_of(told(SENT, refused)[0]).news()
    state = observe(NOTHING_LEARNT, shared, 100.0)

    assert shared.refusals == 1
    limits = {"requests_per_min": 60, "tokens_per_min": 90_000}
    assert not quota.has_room(state.quota, **limits, tokens=1, now_s=100.5)
    assert quota.has_room(state.quota, **limits, tokens=1, now_s=101.5)


def test_breaker_that_opened_elsewhere_is_open_here_and_closes_with_it():
    failures = [Failed(sent_s=99.0, draw=0.5) for _ in range(breaker.CONSECUTIVE_FAILURES_MAX)]
    row, theirs = told(*failures)
    others = others_of(row)
    ((_, opened),) = others.news()
    state = observe(NOTHING_LEARNT, opened, 100.0)
    probe = [Dispatched(sent_s=106.0), Finished(sent_s=106.0, output_tokens=1)]
    others.hear("p0", "d", told(*probe, now_s=106.0, state=theirs, row=list(row))[0])
    ((_, closed),) = others.news()

    assert opened.open_until_s == pytest.approx(theirs.breaker.open_until_s)
    assert breaker.phase(state.breaker, now_s=104.9) == "open"
    assert breaker.phase(state.breaker, now_s=105.1) == "half_open"
    assert closed.open_until_s == 0.0
    assert breaker.phase(observe(state, closed, 104.0).breaker, now_s=104.0) == "closed"


def test_breaker_that_is_open_when_its_teller_is_met_is_news():
    row = new_row()
    row[OPEN_UNTIL_US] = 105_000_000
    others = Others()
    others.meet("p0", {"d": row})

    assert others.news() == [("d", Shared(open_until_s=105.0))]


def test_what_was_heard_is_not_told_again():
    row, _ = told(SENT)
    again = new_row()
    others = others_of(row)
    ((_, shared),) = others.news()
    note(again, shared, before=NOTHING_LEARNT, after=observe(NOTHING_LEARNT, shared, 100.0))

    assert again == new_row()


def test_teller_met_with_nothing_standing_is_forgotten_in_peace():
    others = Others()
    others.meet("p0", {"d": told(SENT, Abandoned(sent_s=99.0, unseen_tokens=700))[0]})
    others.forget("p0")

    assert others.news() == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["hear", "hear", "hear", "meet", "forget"]),
            st.lists(st.integers(0, 1000), min_size=4, max_size=4),
        ),
        max_size=40,
    )
)
def test_sum_is_that_of_the_latest_rows_of_who_lives(steps):
    """Whatever is heard in which order: what stands is the living's, growth is what came since a meeting."""
    total = Sum()
    rows = {teller: [0] * FIELDS for teller in range(4)}
    living, grown = set(), new_row()
    for teller, step, (in_flight, backlog, requests, tokens) in steps:
        row = rows[teller] = rows[teller].copy()
        row[IN_FLIGHT], row[BACKLOG_TOKENS] = in_flight, backlog
        row[REQUESTS] += requests
        row[TOKENS] += tokens
        if step == "forget":
            total.forget(str(teller))
            living.discard(teller)
        elif step == "meet" or teller not in living:
            total.forget(str(teller))
            total.meet(str(teller), {"d": tuple(row)})
            living.add(teller)
        else:
            total.hear(str(teller), "d", tuple(row))
            grown[REQUESTS] += requests
            grown[TOKENS] += tokens

    heard = {teller: total._heard[str(teller)]["d"] for teller in living}
    grown[IN_FLIGHT] = sum(row[IN_FLIGHT] for row in heard.values())
    grown[BACKLOG_TOKENS] = sum(row[BACKLOG_TOKENS] for row in heard.values())
    assert total.rows.get("d", new_row())[:4] == grown[:4]


def test_failures_dealt_to_several_processes_open_each_breaker_at_the_fifth():
    """As if one process had seen all of them."""
    rows, states, others = [new_row() for _ in range(4)], [NOTHING_LEARNT] * 4, [Others() for _ in range(4)]
    for hearer in range(4):
        for teller in range(4):
            if teller != hearer:
                others[hearer].meet(str(teller), {})
    dispatched = 0
    for number in range(20):
        hearer, now_s = number % 4, 100.0 + number / 100
        for teller in range(4):
            if teller != hearer:
                others[hearer].hear(str(teller), "d", tuple(rows[teller]))
        for _, shared in others[hearer].news():
            states[hearer] = observe(states[hearer], shared, now_s)
        if breaker.phase(states[hearer].breaker, now_s=now_s) == "open":
            continue
        dispatched += 1
        for event in (Dispatched(sent_s=now_s), Failed(sent_s=now_s, draw=0.5)):
            before, states[hearer] = states[hearer], observe(states[hearer], event, now_s)
            note(rows[hearer], event, before=before, after=states[hearer])

    assert dispatched == breaker.CONSECUTIVE_FAILURES_MAX


def test_success_is_told_and_ends_the_row_of_who_hears():
    finished = Finished(sent_s=99.0, output_tokens=1)
    ((_, shared),) = others_of(told(SENT, finished)[0]).news()
    state = observe(NOTHING_LEARNT, Failed(sent_s=99.0, draw=0.5), 100.0)

    assert (shared.successes, shared.failures) == (1, 0)
    assert observe(state, shared, 100.0).breaker.consecutive_failures == 0

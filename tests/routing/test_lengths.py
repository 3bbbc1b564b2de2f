"""What is expected of the next answer's length."""

from routing.lengths import Lengths, expected_tokens, on_answer


def test_lengths_start_from_a_guess_and_follow_what_is_seen():
    lengths = Lengths()
    assert expected_tokens(lengths, prompt_tokens=100) == 200.0

    for _ in range(1000):
        lengths = on_answer(lengths, prompt_tokens=100, output_tokens=30)

    assert round(expected_tokens(lengths, prompt_tokens=100)) == 30


def test_lengths_tell_short_prompts_from_long_ones():
    lengths = on_answer(Lengths(), prompt_tokens=100, output_tokens=1000)

    assert expected_tokens(lengths, prompt_tokens=127) == (200 * 5 * 0.99 + 1000) / (5 * 0.99 + 1)
    assert expected_tokens(lengths, prompt_tokens=128) == 200.0
    assert (
        expected_tokens(on_answer(lengths, prompt_tokens=2**40, output_tokens=1), prompt_tokens=2**50) < 200
    )

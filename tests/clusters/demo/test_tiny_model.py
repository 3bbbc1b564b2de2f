import hashlib

import pytest

from clusters.demo.tiny_model import bigram_logarithms, build_vocabulary, write_tiny_model


def test_tiny_model_has_the_same_bytes_each_time(tmp_path):
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"

    write_tiny_model(path=first)
    write_tiny_model(path=second)

    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
    assert len(digests) == 1
    assert first.read_bytes()[:4] == b"GGUF"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.gguf", "second.gguf"]


def test_vocabulary_holds_each_word_with_its_prefixes():
    vocabulary = build_vocabulary()

    pieces = set(vocabulary.pieces)
    words = {vocabulary.pieces[token] for token in vocabulary.text}
    prefixes = {word[:length] for word in words for length in range(1, len(word))}
    assert prefixes | words <= pieces
    assert len(vocabulary.pieces) == len(vocabulary.scores) == len(vocabulary.kinds)


def test_bigram_chances_add_up_to_one():
    vocabulary = build_vocabulary()

    logarithms = bigram_logarithms(
        text=vocabulary.text,
        end_after=vocabulary.pieces.index("."),
        size=len(vocabulary.pieces),
    )

    sums = [sum(2.718281828459045**value for value in row) for row in logarithms[:5]]
    assert sums == pytest.approx([1.0] * 5)

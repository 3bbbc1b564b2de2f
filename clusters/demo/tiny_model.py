"""Writes a tiny but valid llama model: an exact word-bigram model of the demo text.

Attention and feed-forward are all zero and the embedding is one-hot, so the hidden state of a token
is the token itself, scaled by sqrt(dimension) in the RMS norm; the output matrix holds the logarithm
of the bigram table divided by the same factor. Real llama.cpp then answers in readable words.
"""

import collections
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from clusters.demo.words import TEXT

MODEL_NAME = "tiny-bigram"
CONTEXT_TOKENS_MAX = 8192
HEAD_COUNT = 4
FEED_FORWARD_LENGTH = 32
UNKNOWN, BEGIN, END = 0, 1, 2
# After about one sentence in five the model ends its answer.
END_SHARE = 0.25
SPACE = "\u2581"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    pieces: tuple[str, ...]
    kinds: tuple[gguf.TokenType, ...]
    scores: tuple[float, ...]
    # The text itself, as token ids.
    text: tuple[int, ...]


def write_tiny_model(*, path: Path) -> None:
    """Write 4 MB at `path`, the same bytes each time; a reader sees the whole file or none."""
    vocabulary = build_vocabulary()
    unfinished = path.with_name(f"{path.name}.part")
    writer = gguf.GGUFWriter(str(unfinished), "llama")
    width = embedding_width(vocabulary)

    describe_model(writer=writer, vocabulary=vocabulary, width=width)
    add_tensors(writer=writer, vocabulary=vocabulary, width=width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(path)


def build_vocabulary() -> Vocabulary:
    words = [word if word in ".," else SPACE + word for word in re.findall(r"[a-z]+|[.,]", TEXT)]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    scores = dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_], 0.0)
    special_count = len(scores)
    for word in words:
        scores.setdefault(word, -1.0 - 0.001 * len(scores) / 1000)
    # SentencePiece merges character by character: each prefix of a word must be a piece as well.
    for word in dict.fromkeys(words):
        for length in range(2, len(word)):
            scores.setdefault(word[:length], -2.0)
    for character in (SPACE, *map(chr, range(33, 127))):
        scores.setdefault(character, -10.0)

    ids = {piece: index for index, piece in enumerate(scores)}
    return Vocabulary(
        pieces=tuple(scores),
        kinds=token_kinds(special_count=special_count, piece_count=len(scores)),
        scores=tuple(scores.values()),
        text=tuple(ids[word] for word in words),
    )


def token_kinds(*, special_count: int, piece_count: int) -> tuple[gguf.TokenType, ...]:
    kind = gguf.TokenType
    special = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL]
    bytes_ = [kind.BYTE] * (special_count - len(special))
    return (*special, *bytes_, *[kind.NORMAL] * (piece_count - special_count))


def embedding_width(vocabulary: Vocabulary) -> int:
    """One dimension for each piece, rounded up to a multiple of 32."""
    return (len(vocabulary.pieces) + 31) // 32 * 32


def bigram_logarithms(*, text: Sequence[int], end_after: int, size: int) -> NDArray[np.float64]:
    """`[i, j]` is the logarithm of the chance that token j follows token i.

    A token that the text does not hold is followed by any word, as often as the text has it.
    """
    counts = np.full((size, size), 1e-9, np.float64)
    for token, follower in itertools.pairwise(text):
        counts[token, follower] += 1
    counts[end_after, END] += END_SHARE * counts[end_after].sum()
    for row in counts:
        if row.sum() < 1e-3:
            for token, count in collections.Counter(text).items():
                row[token] += count
    logarithms: NDArray[np.float64] = np.log(counts / counts.sum(1, keepdims=True))
    return logarithms


def describe_model(*, writer: gguf.GGUFWriter, vocabulary: Vocabulary, width: int) -> None:
    writer.add_name(MODEL_NAME)
    writer.add_context_length(CONTEXT_TOKENS_MAX)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD_LENGTH)
    writer.add_head_count(HEAD_COUNT)
    writer.add_head_count_kv(HEAD_COUNT)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // HEAD_COUNT)
    writer.add_vocab_size(len(vocabulary.pieces))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(vocabulary.pieces))
    writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_tensors(*, writer: gguf.GGUFWriter, vocabulary: Vocabulary, width: int) -> None:
    size = len(vocabulary.pieces)
    logarithms = bigram_logarithms(text=vocabulary.text, end_after=vocabulary.pieces.index("."), size=size)
    output = np.zeros((size, width), np.float32)
    output[:, :size] = (logarithms.T / np.sqrt(width)).astype(np.float32)
    ones = np.ones(width, np.float32)

    writer.add_tensor("token_embd.weight", np.eye(size, width, dtype=np.float16))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output.astype(np.float16))
    writer.add_tensor("blk.0.attn_norm.weight", ones)
    writer.add_tensor("blk.0.ffn_norm.weight", ones)
    for name in ("q", "k", "v", "output"):
        writer.add_tensor(f"blk.0.attn_{name}.weight", np.zeros((width, width), np.float16))
    for name in ("gate", "up"):
        zeros = np.zeros((FEED_FORWARD_LENGTH, width), np.float16)
        writer.add_tensor(f"blk.0.ffn_{name}.weight", zeros)
    writer.add_tensor("blk.0.ffn_down.weight", np.zeros((width, FEED_FORWARD_LENGTH), np.float16))

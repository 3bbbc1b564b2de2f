"""What a stand-in will say: the words of each choice, planned before the first token."""

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clusters.demo.wire import OUTPUT_TOKENS_MAX, CompletionRequest, Prompt, Tool
from clusters.demo.words import follower_words, natural_length, seeded_random, spoken_words

OTHER_TYPE_VALUES: dict[str, Any] = {
    "integer": 7,
    "number": 7.5,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer: first the reasoning, then the text or the arguments of the tool call.

    Each piece is one token; a piece is empty when a stop string swallowed it.
    """

    index: int
    reasoning: tuple[str, ...]
    pieces: tuple[str, ...]
    finish_reason: str

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.reasoning) + len(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One token of one choice."""

    choice_index: int
    text: str
    is_reasoning: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    choices: tuple[Choice, ...]

    @property
    def tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(len(choice.reasoning) for choice in self.choices)

    def turns(self) -> list[Turn]:
        """All tokens in the order in which they are made: the choices take turns."""
        turns: list[list[Turn]] = []
        for choice in self.choices:
            both = [(text, True) for text in choice.reasoning]
            both += [(text, False) for text in choice.pieces]
            for position, (text, is_reasoning) in enumerate(both):
                if position == len(turns):
                    turns.append([])
                turn = Turn(choice_index=choice.index, text=text, is_reasoning=is_reasoning)
                turns[position].append(turn)
        return [turn for together in turns for turn in together]


def plan_speech(*, request: CompletionRequest, seed: int, context_tokens_max: int) -> Speech:
    """The same request and seed always give the same speech."""
    choices: list[Choice] = []
    share_max = OUTPUT_TOKENS_MAX // (len(request.prompts) * request.choice_count)
    for prompt in request.prompts:
        room = min(max(context_tokens_max - prompt.tokens, 0), share_max)
        tokens_max = room if request.tokens_max is None else min(request.tokens_max, room)
        for _ in range(request.choice_count):
            index = len(choices)
            choice = plan_choice(
                request=request, prompt=prompt, index=index, seed=seed, tokens_max=tokens_max
            )
            choices.append(choice)
    return Speech(choices=tuple(choices))


def plan_choice(
    *, request: CompletionRequest, prompt: Prompt, index: int, seed: int, tokens_max: int
) -> Choice:
    wanted = request.knobs.completion_tokens
    reasoning_wanted = request.knobs.reasoning_tokens or 0
    reasoning_tokens = min(reasoning_wanted, tokens_max, tokens_max if wanted is None else wanted)
    rest = None if wanted is None else wanted - reasoning_tokens
    room = tokens_max - reasoning_tokens

    if request.tool is not None:
        pieces = call_pieces(tool=request.tool, seed=seed, prompt=prompt.text, wanted=rest)
        finish_reason = "tool_calls"
    else:
        if rest is None:
            rest = natural_length(seed=seed, prompt=prompt.text, choice=index)
        # One more than there is room for tells a cut text from one that just fits.
        count = min(rest, room + 1)
        pieces = text_pieces(seed=seed, prompt=prompt.text, choice=index, count=count)
        finish_reason = "stop"
    if len(pieces) > room:
        pieces, finish_reason = pieces[:room], "length"
    if request.stops and wanted is None and request.tool is None:
        stopped = cut_at_stop(pieces=pieces, stops=request.stops)
        if stopped is not None:
            pieces, finish_reason = stopped, "stop"

    topic = f"reasoning of {prompt.text}"
    return Choice(
        index=index,
        reasoning=text_pieces(seed=seed, prompt=topic, choice=index, count=reasoning_tokens),
        pieces=pieces,
        finish_reason=finish_reason,
    )


def text_pieces(*, seed: int, prompt: str, choice: int, count: int) -> tuple[str, ...]:
    """Words that join into a text of exactly `count` words."""
    words = islice(spoken_words(seed=seed, prompt=prompt, choice=choice), count)
    return tuple(f" {word}" if position else word for position, word in enumerate(words))


def call_pieces(*, tool: Tool, seed: int, prompt: str, wanted: int | None) -> tuple[str, ...]:
    """The arguments as JSON; blanks, which JSON allows, fill it up to `wanted` pieces."""
    draw = seeded_random(seed=seed, topic=f"arguments:{prompt}")
    words = sorted(follower_words())
    arguments = {
        name: OTHER_TYPE_VALUES[kind] if kind in OTHER_TYPE_VALUES else draw.choice(words)
        for name, kind in tool.properties.items()
    }
    pieces = re.findall(r"\s*\S+", json.dumps(arguments))
    if wanted is not None:
        pieces = [*pieces, *[" "] * (wanted - len(pieces))][:wanted]
    return tuple(pieces)


def cut_at_stop(*, pieces: tuple[str, ...], stops: tuple[str, ...]) -> tuple[str, ...] | None:
    """The pieces up to the one that completes the first stop string, its text swallowed."""
    text = "".join(pieces)
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not found:
        return None
    end, cut = min(found)
    kept: list[str] = []
    position = 0
    for piece in pieces:
        if position >= end:
            break
        kept.append(piece[: max(cut - position, 0)])
        position += len(piece)
    return tuple(kept)

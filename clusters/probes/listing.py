"""Reads which models a cluster lists, and their context windows where it says them."""

import json
from dataclasses import dataclass
from typing import Any

MODELS_MAX = 1000
CONTEXT_WINDOW_MAX = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Model names in the cluster's order, and (name, tokens) for those whose window it says."""

    models: tuple[str, ...]
    context_windows: tuple[tuple[str, int], ...]


def read_listing(body: bytes) -> Listing | None:
    """OpenAI's, vLLM's, llama.cpp's, Anthropic's or Gemini's list; None where it is none of them."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    rows = document.get("data")
    if not isinstance(rows, list):
        rows = document.get("models")
    if not isinstance(rows, list):
        return None
    found = [(_name(row), _context_window(row)) for row in rows[:MODELS_MAX] if isinstance(row, dict)]
    return Listing(
        models=tuple(dict.fromkeys(name for name, _ in found if name)),
        context_windows=tuple((name, window) for name, window in found if name and window is not None),
    )


def _name(row: dict[str, Any]) -> str:
    name = row.get("id") or row.get("name") or ""
    # Gemini lists resource names.
    return name.removeprefix("models/") if isinstance(name, str) else ""


def _context_window(row: dict[str, Any]) -> int | None:
    """From vLLM and SGLang (max_model_len), llama.cpp (meta), Gemini and Anthropic; None: not said."""
    raw_meta = row.get("meta")
    meta = raw_meta if isinstance(raw_meta, dict) else {}
    for value in (
        row.get("max_model_len"),
        meta.get("n_ctx"),
        meta.get("n_ctx_train"),
        row.get("inputTokenLimit"),
        row.get("max_input_tokens"),
    ):
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= CONTEXT_WINDOW_MAX:
            return value
    return None

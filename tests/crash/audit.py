"""Holds three ledgers against each other: what callers saw, what the upstream gave, what was booked."""

from collections import Counter, defaultdict

PROMISES = ("M1", "M2", "M3", "M4", "M5", "M6")
CLOSED = {"settled", "void"}


def compare(*, answers, lines, attempts, reconciled):
    """Violations of M1 to M4 and M6 by promise, each as a sentence.

    `attempts` are read twice: `before` the attempts in doubt were ended, and `after`.
    """
    return {
        "M1": list(unheld(lines, attempts["before"])),
        "M2": list(misbooked(answers, lines, attempts["before"])),
        "M3": list(uncovered(answers, lines, attempts["before"])),
        "M4": [*unsound(attempts["after"]), *map(str, reconciled["drift"])],
        "M6": list(unended(attempts)),
    }


def unheld(lines, attempts):
    """M1: no attempt at the upstream without a committed reservation."""
    held = {reservation["attempt_id"] for reservation in attempts["reservations"]}
    for line in lines:
        if line.get("event") == "received" and line["attempt_id"] not in held:
            yield f"the upstream saw attempt {line['attempt_id']}, which nobody held for"


def misbooked(answers, lines, attempts):
    """M2: a complete answer has exactly one exact row, equal to what the upstream and the caller count."""
    ended = {line["attempt_id"]: line for line in lines if line.get("event") != "received"}
    rows = defaultdict(list)
    for row in attempts["rows"]:
        if row["outcome"] == "ok":
            rows[row["request_id"]].append(row)
    for answer in answers:
        if not answer.is_complete:
            continue
        booked = rows[answer.request_id]
        if len(booked) != 1 or booked[0]["is_estimate"]:
            yield f"{answer.request_id} was seen complete and has {len(booked)} rows: {booked}"
            continue
        line = ended.get(booked[0]["attempt_id"], {})
        counts = {
            "row": token_counts(booked[0]),
            "upstream": (line.get("prompt_tokens"), line.get("completion_tokens")),
            "told": (answer.usage.get("prompt_tokens"), answer.usage.get("completion_tokens")),
            "seen": (token_counts(booked[0])[0], answer.tokens),
        }
        if len(set(counts.values())) != 1 or line.get("outcome") != "ok":
            yield f"{answer.request_id} counts differ: {counts}"


def uncovered(answers, lines, attempts):
    """M3: what a caller saw is in its row; while there is none, the hold pays for it."""
    prompts = {line["attempt_id"]: line["prompt_tokens"] for line in lines if line.get("event") != "received"}
    booked, holds = defaultdict(list), defaultdict(list)
    for row in attempts["rows"]:
        booked[row["request_id"]].append(row)
    for reservation in attempts["reservations"]:
        holds[reservation["request_id"]].append(reservation)
    for answer in answers:
        if not answer.tokens:
            continue
        exact = [row for row in booked[answer.request_id] if row["outcome"] != "in_doubt"]
        if any(token_counts(row)[1] >= answer.tokens for row in exact):
            continue
        doubtful = [hold for hold in holds[answer.request_id] if hold["state"] != "settled"]
        doubtful += [row for row in booked[answer.request_id] if row["outcome"] == "in_doubt"]
        if not any(is_paid_by(hold, answer.tokens, prompts) for hold in doubtful):
            yield f"{answer.request_id}: {answer.tokens} tokens were seen, no row or hold covers them"


def is_paid_by(hold, tokens, prompts):
    rate, prompt_tokens = hold["rate"], prompts.get(hold["attempt_id"], 0)
    picousd = prompt_tokens * rate["input_microusd_per_mtok"] + tokens * rate["output_microusd_per_mtok"]
    return -(-picousd // 1000) <= hold["held_nanousd"]


def unsound(attempts):
    """M4: at most one row an attempt, and each costs what its tokens cost, within its hold."""
    counts = Counter(row["attempt_id"] for row in attempts["rows"])
    yield from (f"attempt {attempt_id} has {count} rows" for attempt_id, count in counts.items() if count > 1)
    for row in attempts["rows"]:
        if row["cost_nanousd"] + row["variance_nanousd"] != row["full_cost_nanousd"]:
            yield f"attempt {row['attempt_id']} costs {row['cost_nanousd']} of {row['full_cost_nanousd']}"
        if row["cost_nanousd"] > row["held_nanousd"]:
            yield f"attempt {row['attempt_id']} cost more than was held"


def unended(attempts):
    """M6: nothing stays held by the dead, and what was in doubt can be ended."""
    for reservation in attempts["before"]["reservations"]:
        if reservation["state"] == "held":
            yield f"attempt {reservation['attempt_id']} is held by nobody who lives"
    for reservation in attempts["after"]["reservations"]:
        if reservation["state"] not in CLOSED:
            yield f"attempt {reservation['attempt_id']} is still {reservation['state']}"


def token_counts(row):
    prompt = row["input_fresh_tokens"] + row["cache_read_tokens"]
    prompt += row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]
    return prompt, row["output_text_tokens"] + row["reasoning_tokens"] + row["audio_tokens"]

"""Who spends in a big ledger for measurements, and on what: drawn from a seed, the same each time."""

import random
from dataclasses import dataclass
from uuid import UUID

import orjson

KEYS = 100
TEAMS = 20
KEYS_PER_HOUR = 50
MODELS = ("small", "large", "embed", "code", "vision")
# Name, kind, provider, cost per hour in nano-USD (own clusters only).
SITES = (
    ("gpu-east", "own", "aws", 4_000_000_000),
    ("gpu-west", "own", "gcp", 6_000_000_000),
    ("gpu-lab", "own", "aws", 2_000_000_000),
    ("openai", "provider", "openai", 0),
    ("azure", "provider", "openai", 0),
    ("groq", "provider", "openai", 0),
)
CAPACITY_TOKENS = 1_000 * 3_600
INPUT_NANOUSD, OUTPUT_NANOUSD = 150, 600  # for each token


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """A key on one cluster: the columns that all its attempts share."""

    organisation: str
    team: str
    key_id: UUID
    key_name: str
    model: str
    site: tuple
    rate: str
    decision: str
    attribution: str


def key_id_of(number):
    return UUID(int=0x5CA1E << 64 | 1 << 63 | number)


def team_of(number):
    return f"team-{number % TEAMS:02}"


def organisation_of(number):
    return f"org-{number % TEAMS % 2}"


def spenders():
    """Two for each key: of its one model, on two clusters."""
    return [
        _spender(number, SITES[(number + turn * 3) % len(SITES)]) for number in range(KEYS) for turn in (0, 1)
    ]


def spenders_of_hour(everybody, *, hour):
    """Half of the keys are awake in an hour."""
    awake = random.Random(hour).sample(range(KEYS), KEYS_PER_HOUR)
    return [everybody[number * 2 + turn] for number in awake for turn in (0, 1)]


def _spender(number, site):
    rate = {"source": "manual", "input_microusd_per_mtok": 150_000, "output_microusd_per_mtok": 600_000}
    decision = {"policy": "cost", "reason": "cheapest", "chosen": site[0], "ranked": [[site[0], 1_000]]}
    names = {
        "organisation": organisation_of(number),
        "team": team_of(number),
        "key_id": str(key_id_of(number)),
        "key_name": f"key-{number:03}",
        "model": MODELS[number % len(MODELS)],
        "cluster": site[0],
    }
    columns = {**names, "key_id": key_id_of(number)}
    columns.pop("cluster")
    return Spender(
        **columns,
        site=site,
        rate=orjson.dumps(rate).decode(),
        decision=orjson.dumps(decision).decode(),
        attribution=orjson.dumps({**names, "rate": rate, "decision": decision}).decode(),
    )

"""What values cost that are made for each request: `python -m tests.bench_values`. Microseconds.

A msgspec Struct beside a frozen dataclass of as many fields, made and changed in one place; 16 random bytes
from the system beside those that are drawn ahead.
"""

import dataclasses
import os
import sys
import timeit

import msgspec

from gateway.identifiers import RANDOM_BYTES, random_bytes

FIELDS = [f"f{n}" for n in range(11)]
TIMES = 100_000
ROUNDS = 5

Value = msgspec.defstruct("Value", [(name, int) for name in FIELDS], frozen=True, kw_only=True)
Plain = dataclasses.make_dataclass(
    "Plain", [(name, int) for name in FIELDS], frozen=True, kw_only=True, slots=True
)


def spent_us(act) -> float:
    return min(timeit.repeat(act, number=TIMES, repeat=ROUNDS)) / TIMES * 1e6


def main() -> None:
    given = dict.fromkeys(FIELDS, 1)
    value, plain = Value(**given), Plain(**given)
    figures = {
        "a Struct of 11 fields, made": lambda: Value(**given),
        "a frozen dataclass, made": lambda: Plain(**given),
        "a Struct, changed in one place": lambda: msgspec.structs.replace(value, f3=2),
        "a frozen dataclass, changed in one place": lambda: dataclasses.replace(plain, f3=2),
        "16 random bytes of the system's": lambda: os.urandom(RANDOM_BYTES),
        "16 random bytes drawn ahead": random_bytes,
    }
    for name, act in figures.items():
        sys.stdout.write(f"{name:44}{spent_us(act):6.2f}\n")


if __name__ == "__main__":
    main()

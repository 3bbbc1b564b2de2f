"""Runs seeds of the overshoot harness: processes of clients at one hard budget, and books that watch it."""

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from tests.fakes.gateway_server import new_databases

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_S_MAX = 15.0
# Of the budget; without clamping less than one request's bound is left, of the hundred that it pays.
USED_PERMILLE_MIN = {"clamp": 950, "hard": 990}


class Process:
    """tests.overshoot.process; `ask` one of its functions, `answer` waits for what it says."""

    def __init__(self, env):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.overshoot.process"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_until_ready(self):
        assert self._process.stdout.readline() == b"ready\n"

    def ask(self, function, /, **arguments):
        self._process.stdin.write(orjson.dumps({"call": function, "arguments": arguments}) + b"\n")
        self._process.stdin.flush()

    def answer(self):
        answer = orjson.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def call(self, function, /, **arguments):
        self.ask(function, **arguments)
        return self.answer()

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@dataclass(slots=True, kw_only=True)
class Campaign:
    """The processes, and what their seeds came to; `problems` is empty where all promises were kept."""

    books: Process
    spenders: list[Process]
    clients: int
    problems: list[str] = field(default_factory=list)
    seeds: list[dict] = field(default_factory=list)

    def run_seed(self, seed, *, mode):
        self.books.ask("watch", seed=seed)
        for number, spender in enumerate(self.spenders):
            spender.ask("spend", seed=seed, process=number, clients=self.clients, mode=mode)
        tallies = [spender.answer() for spender in self.spenders]
        # The next question ends the watch, whose answer comes first.
        self.books.ask("audit", seed=seed)
        found = {"seed": seed, "mode": mode, **self.books.answer(), **self.books.answer()}
        found |= {name: sum(tally[name] for tally in tallies) for name in tallies[0]}
        self.seeds.append(found)
        self.problems += [f"seed {seed}: {problem}" for problem in self._problems_of(found)]
        return found

    def end(self):
        """Prove all sums of the ledger; give back the report."""
        self.problems += self.books.call("prove")
        used = [permille_of(found) for found in self.seeds]
        return {
            "processes": len(self.spenders),
            "clients": self.clients * len(self.spenders),
            "seeds": len(self.seeds),
            "answers": self._sum("answers"),
            "clamped": self._sum("clamped"),
            "came_again": self._sum("came_again"),
            "refused_for_good": self._sum("refused_for_good"),
            "samples": self._sum("samples"),
            "overshoots": sum(found["highest_nanousd"] > found["limit_nanousd"] for found in self.seeds),
            "highest_permille": max(
                found["highest_nanousd"] * 1000 // found["limit_nanousd"] for found in self.seeds
            ),
            "used_permille_least": min(used),
            "used_permille_mean": sum(used) // len(used),
            "problems": self.problems,
        }

    def _sum(self, name):
        return sum(found[name] for found in self.seeds)

    def _problems_of(self, found):
        limit = found["limit_nanousd"]
        client_count = self.clients * len(self.spenders)
        facts = {
            "spent and held were above the limit": max(found["highest_nanousd"], found["sampled_nanousd"])
            > limit,
            "something is still held": (found["held_nanousd"], found["still_open"]) != (0, 0),
            "the rows do not add up to what is spent": found["rows_nanousd"] != found["spent_nanousd"],
            "there are not as many rows as answers": not (
                found["rows"] == found["reservations"] == found["answers"]
            ),
            "an answer cost more than was held": found["surplus_nanousd"] != 0,
            "a client was not refused for good": found["refused_for_good"] != client_count,
            "nobody looked": found["samples"] == 0,
            "too little of the budget was used": permille_of(found) < USED_PERMILLE_MIN[found["mode"]],
            "clamping is not as the mode says": (found["clamped"] > 0) != (found["mode"] == "clamp"),
        }
        return [f"{fact}: {found}" for fact, is_so in facts.items() if is_so]


def permille_of(found):
    return found["spent_nanousd"] * 1000 // found["limit_nanousd"]


@contextlib.contextmanager
def overshoot_campaign(folder, *, processes, clients):
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(new_databases(folder))
        started = []
        for _ in range(processes + 1):
            process = Process(env)
            stack.callback(process.close)
            started.append(process)
        for process in started:
            process.wait_until_ready()
        books, *spenders = started
        books.call("prepare")
        yield Campaign(books=books, spenders=spenders, clients=clients)

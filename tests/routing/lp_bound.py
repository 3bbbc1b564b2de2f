"""The least that a trace could have cost: the linear program behind routing/traces/bounds.json.

`python -m tests.routing.lp_bound [SCENARIO ...]` solves scenarios of fleets.json anew, 3 to 90 s each, and
prints them beside what is committed. Clairvoyant and fluid: requests may be split over places and over bins
of time between their arrival and the latest end that keeps the objective; engines are bound by seconds, seats
and chunks; autoscaled replicas start at once and are paid by the second; misses of a provider cost what is
expected of them. So nothing that plays by routing.physics can cost less, but for luck with its latency.
"""

import gzip
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix
from scipy.stats import norm

import routing.simulate

TRACES = Path(routing.simulate.__file__).parent / "traces"
BIN_S = 15.0
BURSTY_BIN_S = 2.0  # for the code trace, whose bursts a longer bin would smooth away
MINUTE_S = 60.0
# Limits so high bind nobody.
RPM_BINDING_MAX = 1e6
RTT_DEFAULT_S = 0.03
PROVIDER_TTFT_S_PER_TOKEN = 3e-5
# A full bucket and what flows into it: so many minutes' worth within any one minute.
BURST_MINUTES = 2.0


class Requests:
    """A trace as arrays: arrival, prompt and answer tokens, and what the objective allows."""

    def __init__(
        self, rows: Sequence[tuple[int, int, int]], *, compression: float, slo: Mapping[str, float]
    ) -> None:
        given = np.array(rows, dtype=float)
        self.arrived_s = given[:, 0] / 1000 / compression
        self.prompt_tokens, self.output_tokens = given[:, 1], given[:, 2]
        self.count = len(given)
        self.ttft_s = slo["ttft_s"] + slo["ttft_s_per_prompt_token"] * self.prompt_tokens
        self.decoded_tokens = np.maximum(self.output_tokens - 1, 0)
        self.latest_s = self.arrived_s + self.ttft_s + self.decoded_tokens * slo["tpot_s"]
        self.ends_s = self.arrived_s[-1]

    def price_usd(self, *, input_usd_per_mtok: float, output_usd_per_mtok: float) -> np.ndarray:
        return (input_usd_per_mtok * self.prompt_tokens + output_usd_per_mtok * self.output_tokens) / 1e6


class Program:
    """A linear program that grows: variables from 0 to a bound, rows that are at most theirs."""

    def __init__(self) -> None:
        self._costs: list[np.ndarray] = []
        self._uppers: list[np.ndarray] = []
        self._bounds: list[np.ndarray] = []
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._shares: list[tuple[np.ndarray, np.ndarray]] = []
        self._variable_count = self._row_count = 0

    def variables(self, cost: np.ndarray, *, upper: float) -> np.ndarray:
        first, self._variable_count = self._variable_count, self._variable_count + len(cost)
        self._costs.append(cost)
        self._uppers.append(np.full(len(cost), upper))
        return np.arange(first, self._variable_count)

    def rows(self, bounds: np.ndarray) -> np.ndarray:
        first, self._row_count = self._row_count, self._row_count + len(bounds)
        self._bounds.append(bounds)
        return np.arange(first, self._row_count)

    def put(self, rows: np.ndarray, variables: np.ndarray, values: np.ndarray | float) -> None:
        self._entries.append((rows, variables, np.broadcast_to(values, rows.shape)))

    def share(self, requests: np.ndarray, variables: np.ndarray) -> None:
        """These variables are parts of these requests; a request's parts add up to one."""
        self._shares.append((requests, variables))

    def least_cost(self, *, request_count: int) -> float:
        """Solve; RuntimeError where the solver gives up."""
        rows, columns, values = (np.concatenate(each) for each in zip(*self._entries, strict=True))
        requests, parts = (np.concatenate(each) for each in zip(*self._shares, strict=True))
        uppers = np.concatenate(self._uppers)
        solved = linprog(
            np.concatenate(self._costs) * 1e3,  # the solver's tolerances suit numbers near one
            A_ub=csr_matrix((values, (rows, columns)), shape=(self._row_count, self._variable_count)),
            b_ub=np.concatenate(self._bounds),
            A_eq=csr_matrix(
                (np.ones(len(parts)), (requests, parts)), shape=(request_count, self._variable_count)
            ),
            b_eq=np.ones(request_count),
            bounds=np.column_stack([np.zeros_like(uppers), uppers]),
            method="highs-ipm",
        )
        if solved.status != 0:
            raise RuntimeError(solved.message)
        return float(solved.fun) / 1e3


def least_controllable_usd(
    *,
    requests: Requests,
    clusters: Sequence[Mapping[str, Any]],
    profiles: Mapping[str, Mapping[str, float]],
    penalty: Mapping[str, float],
    bin_s: float,
) -> float:
    """Providers, autoscaled replicas and misses at their least; committed capacity costs what it costs."""
    program = Program()
    missed_usd = requests.price_usd(input_usd_per_mtok=penalty["inp"], output_usd_per_mtok=penalty["out"])
    for cluster in clusters:
        if cluster["kind"] == "external":
            _add_provider(program, requests, cluster, missed_usd)
        else:
            _add_own(program, requests, cluster, profiles[cluster["profile"]], bin_s)
    program.share(np.arange(requests.count), program.variables(missed_usd, upper=1.0))
    return program.least_cost(request_count=requests.count)


def _add_own(
    program: Program,
    requests: Requests,
    cluster: Mapping[str, Any],
    profile: Mapping[str, float],
    bin_s: float,
) -> None:
    first, last = (requests.arrived_s // bin_s).astype(int), (requests.latest_s // bin_s).astype(int)
    bin_count = int(last.max()) + 1
    # A variable for each request and each bin it may be worked on in.
    who = np.repeat(np.arange(requests.count), last - first + 1)
    when = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
    prompts = requests.prompt_tokens
    alone_s = prompts / profile["chunk"] * profile["c0"] + profile["c2"] * prompts
    is_in_time = (alone_s + cluster.get("rtt", RTT_DEFAULT_S) <= requests.ttft_s)[who]
    who, when = who[is_in_time], when[is_in_time]
    parts = program.variables(np.zeros(len(who)), upper=1.0)
    program.share(who, parts)
    iterations = program.variables(np.zeros(bin_count), upper=1e6)
    up_s = bin_s * (1 - _outage_share(cluster, bin_count=bin_count, bin_s=bin_s))
    if cluster["kind"] == "committed":
        seconds = program.rows(up_s * cluster.get("replicas", 1))
    else:
        seconds = program.rows(np.zeros(bin_count))
        replica_usd = np.full(bin_count, cluster["usd_per_hour"] * bin_s / 3600)
        replicas = program.variables(replica_usd, upper=cluster["max_replicas"])
        program.put(seconds, replicas, -up_s)
    work_s = profile["c2"] * prompts + profile["c1"] * requests.decoded_tokens
    program.put(seconds[when], parts, work_s[who])
    program.put(seconds, iterations, profile["c0"])
    for amount, of_each in (
        (requests.decoded_tokens, profile["max_seqs"]),
        (requests.prompt_tokens, profile["chunk"]),
    ):
        room = program.rows(np.zeros(bin_count))
        program.put(room[when], parts, amount[who] / of_each)
        program.put(room, iterations, -1.0)


def _outage_share(cluster: Mapping[str, Any], *, bin_count: int, bin_s: float) -> np.ndarray:
    begins_s = np.arange(bin_count) * bin_s
    share = np.zeros(bin_count)
    for from_s, until_s in cluster.get("outages", []):
        share += (
            np.clip(np.minimum(until_s, begins_s + bin_s) - np.maximum(from_s, begins_s), 0, None) / bin_s
        )
    return share


def _add_provider(
    program: Program, requests: Requests, cluster: Mapping[str, Any], missed_usd: np.ndarray
) -> None:
    left_s = (
        requests.ttft_s
        - cluster.get("rtt", RTT_DEFAULT_S)
        - PROVIDER_TTFT_S_PER_TOKEN * requests.prompt_tokens
    )
    spread = np.log(np.maximum(left_s, 1e-3) / cluster["ttft_p50"]) / cluster["ttft_sigma"]
    price_usd = requests.price_usd(
        input_usd_per_mtok=cluster["usd_per_mtok_in"], output_usd_per_mtok=cluster["usd_per_mtok_out"]
    )
    parts = program.variables(price_usd + norm.sf(spread) * missed_usd, upper=1.0)
    program.share(np.arange(requests.count), parts)
    if cluster["rpm"] >= RPM_BINDING_MAX:
        return
    minute = (requests.arrived_s // MINUTE_S).astype(int)
    minutes_paid = requests.ends_s / MINUTE_S + 1
    tokens = requests.prompt_tokens + requests.output_tokens
    for limit, amount in ((cluster["rpm"], np.ones(requests.count)), (cluster["tpm"], tokens)):
        of_minute = program.rows(np.full(int(minute.max()) + 1, BURST_MINUTES * limit))
        program.put(of_minute[minute], parts, amount)
        in_all = program.rows(np.array([limit * minutes_paid]))
        program.put(np.full(requests.count, in_all[0]), parts, amount)


def read_rows(trace: str) -> list[tuple[int, int, int]]:
    """The trace's requests: milliseconds, prompt tokens, answer tokens."""
    with gzip.open(TRACES / trace, "rt") as file:
        next(file)
        columns = (line.split(",")[:3] for line in file)
        return [(int(t_ms), int(prompt), int(output)) for t_ms, prompt, output in columns]


def solved_usd(
    scenario: Mapping[str, Any], *, suite: Mapping[str, Any], until_s: float = float("inf")
) -> float:
    """The bound of a scenario of fleets.json, or of its trace's first `until_s` seconds."""
    rows = [row for row in read_rows(scenario["trace"]) if row[0] < until_s * 1000]
    return least_controllable_usd(
        requests=Requests(rows, compression=scenario["time_compression"], slo=suite["slo"]),
        clusters=suite["fleets"][scenario["fleet"]]["clusters"],
        profiles=suite["profiles"],
        penalty=suite["miss_penalty_usd_per_mtok"],
        bin_s=BURSTY_BIN_S if "code" in scenario["trace"] else BIN_S,
    )


def main() -> None:
    suite = json.loads((TRACES / "fleets.json").read_text())
    bounds = json.loads((TRACES / "bounds.json").read_text())["bounds"]
    wanted = sys.argv[1:] or [scenario["name"] for scenario in suite["scenarios"]]
    for scenario in suite["scenarios"]:
        if scenario["name"] in wanted:
            begun_s = time.monotonic()
            solved = solved_usd(scenario, suite=suite)
            took_s = time.monotonic() - begun_s
            name, committed = scenario["name"], bounds[scenario["name"]]
            sys.stdout.write(f"{name:26} committed {committed:8.4f}  solved {solved:8.4f}  {took_s:5.1f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

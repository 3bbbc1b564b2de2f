"""A simulation's best case: production's rule with exact first tokens and the true lengths of answers."""

from copy import copy
from math import erf, inf, log, sqrt

from routing.money import NANOUSD_PER_USD
from routing.physics import TTFT_S_PER_PROMPT_TOKEN, Engine, Job, Site
from routing.simulate import PolicyRouter

PERFECT_INFORMATION = "perfect-information"
AUTOSCALED_USD = 1e-12  # after every committed cluster, before every provider


class PerfectRouter(PolicyRouter):
    """The cheapest that will meet the objective; what would be bought counts with its chance to miss."""

    def pick(self, job: Job, now_s: float) -> int | None:
        # A site places by when the job is sent: without it another engine would be asked than will serve.
        job.sent_s = now_s
        options = [(*self._usd_and_share(self._sites[n], job, now_s), n) for n in self._usable(now_s)]
        options = [option for option in options if option[0] < inf]
        if not options:
            return super().pick(job, now_s)
        met = [option for option in options if option[1] <= 1.0]
        usd, _, number = min(met) if met else min(options, key=lambda option: (option[1], option))
        self._consider_waking(usd, number=number, now_s=now_s)
        job.note = (0.0, float(job.output_tokens))
        return number

    def _usd_and_share(self, site: Site, job: Job, now_s: float) -> tuple[float, float]:
        """What it costs (infinite: cannot be had), and the share of the objective that it will take."""
        if site.kind == "external":
            if not _has_room(site, job, now_s):
                return inf, inf
            return site.price_usd(job) + _miss_chance(site, job, now_s) * self._penalty_usd(job), 0.0
        engine = site.place(job)
        if engine is None or not site.is_up:
            return inf, inf
        usd = 0.0 if site.kind == "committed" else AUTOSCALED_USD
        waited_s = now_s - job.arrived_s + site.rtt_s
        share = (waited_s + first_token_s(engine, job, now_s)) / job.ttft_objective_s
        is_paced = engine.pace_s <= job.tpot_objective_s
        return usd, share if is_paced else max(share, 1.0 + engine.pace_s)

    def _penalty_usd(self, job: Job) -> float:
        objective = self._settings.objective
        picousd = (
            job.prompt_tokens * objective.miss_input_microusd_per_mtok
            + job.output_tokens * objective.miss_output_microusd_per_mtok
        )
        return picousd / 1000 / NANOUSD_PER_USD


def first_token_s(engine: Engine, job: Job, now_s: float) -> float:
    """Seconds until the job's first token were it sent now: the engine's own future, played ahead.

    Exact for a queue in the order of arrival, which nobody overtakes.
    """
    twin = copy(engine)
    twin.waiting = copy(engine.waiting)
    twin.decoding = list(engine.decoding)
    twin.sync(now_s)
    twin.waiting.append(job)
    at_s = now_s
    while True:
        next_s = twin.next_event_s(at_s)
        assert next_s is not None
        at_s = next_s
        first, _ = twin.advance(at_s)
        if first is job:
            return at_s - now_s


def _has_room(site: Site, job: Job, now_s: float) -> bool:
    passed_min = (now_s - site.filled_at_s) / 60
    requests = min(site.rpm, site.requests_left + passed_min * site.rpm)
    tokens = min(site.tpm, site.tokens_left + passed_min * site.tpm)
    return site.is_up and requests >= 1 and tokens >= job.prompt_tokens + job.output_tokens


def _miss_chance(site: Site, job: Job, now_s: float) -> float:
    """How probable a first token after the objective is, by the provider's true distribution."""
    given = site.given
    per_token_s = given.get("ttft_per_tok", TTFT_S_PER_PROMPT_TOKEN)
    left_s = job.ttft_objective_s - (now_s - job.arrived_s) - site.rtt_s - job.prompt_tokens * per_token_s
    if left_s <= 0:
        return 1.0
    deviations = log(left_s / given["ttft_p50"]) / given["ttft_sigma"]
    return 0.5 * (1.0 - erf(deviations / sqrt(2.0)))

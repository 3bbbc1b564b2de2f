"""Explains where a request would go now, and why not elsewhere, by the inventory alone."""

import json
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.amounts import usd_text
from gateway.fleet import load_snapshot
from routing.choose import choose
from routing.types import Candidate, Decision, Exclusion, RequestProfile

MIDDLE = 0.0  # the draw that decides among exact ties


class Command(BaseCommand):
    help = "Say where a request for a model would go, and why not elsewhere (without what gateways learnt)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model")
        parser.add_argument("--prompt-tokens", type=int, default=1000)
        parser.add_argument(
            "--max-tokens", type=int, help="what the request allows; left out: it does not say"
        )
        parser.add_argument("--surface", choices=("chat", "completions", "embeddings"), default="chat")
        parser.add_argument("--needs", default="", help="capabilities, such as tools,vision")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        snapshot = load_snapshot(now=timezone.now(), now_s=time.monotonic())
        if options["model"] not in snapshot.fleet.routes:
            known = ", ".join(snapshot.fleet.routes) or "none"
            raise CommandError(f"there is no model {options['model']!r} here; there are: {known}")
        decision = choose(_profile(options), snapshot.fleet, {}, time.monotonic(), MIDDLE)
        if options["json"]:
            self.stdout.write(json.dumps(_document(decision), indent=2))
            return
        self._print(decision)

    def _print(self, decision: Decision) -> None:
        self.stdout.write(f"{decision.model}: policy {decision.policy}, {decision.reason}")
        for number, candidate in enumerate(decision.ranked, start=1):
            place = candidate.deployment
            cost = usd_text(candidate.cost_nanousd)
            after = " (fallback)" if candidate.is_fallback else ""
            self.stdout.write(
                f"{number:3}. {place.cluster} / {place.model}{after}: {cost}, score {candidate.score:.6g}"
            )
        for exclusion in decision.exclusions:
            place = exclusion.deployment
            self.stdout.write(f"  -. {place.cluster} / {place.model}: {exclusion.reason}")
        if not decision.is_complete:
            self.stdout.write(
                "The first meets the latency objective for nothing more; the rest was not compared."
            )


def _profile(options: dict[str, Any]) -> RequestProfile:
    prompt_tokens: int = options["prompt_tokens"]
    if prompt_tokens < 0:
        raise CommandError("--prompt-tokens is 0 or more")
    needs = {options["surface"], *filter(None, options["needs"].split(","))}
    return RequestProfile(
        model=options["model"],
        surface=options["surface"],
        body_bytes=4 * prompt_tokens,
        prompt_tokens_estimate=prompt_tokens,
        prompt_tokens_max=prompt_tokens,
        output_tokens_max=options["max_tokens"],
        choice_count=1,
        needs=frozenset(needs),
    )


def _document(decision: Decision) -> dict[str, Any]:
    return {
        "model": decision.model,
        "policy": decision.policy,
        "reason": decision.reason,
        "is_complete": decision.is_complete,
        "ranked": [_candidate(candidate) for candidate in decision.ranked],
        "excluded": [_exclusion(exclusion) for exclusion in decision.exclusions],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "cluster": candidate.deployment.cluster,
        "model": candidate.deployment.model,
        "score": candidate.score,
        "cost_nanousd": candidate.cost_nanousd,
        "is_fallback": candidate.is_fallback,
    }


def _exclusion(exclusion: Exclusion) -> dict[str, Any]:
    return {
        "cluster": exclusion.deployment.cluster,
        "model": exclusion.deployment.model,
        "reason": exclusion.reason,
    }

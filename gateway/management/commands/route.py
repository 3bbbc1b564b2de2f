"""Explains where a request would go now, by the inventory alone, or where one went, by the ledger."""

import json
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.amounts import usd_text
from billing.attempt_log import load_attempts
from gateway.fleet import load_snapshot
from gateway.request_document import request_document
from routing.choose import choose
from routing.types import Candidate, Decision, Exclusion, RequestProfile

MIDDLE = 0.0  # the draw that decides among exact ties


class Command(BaseCommand):
    help = (
        "Say where a request for a model would go, and why not elsewhere (without what gateways learnt); "
        "or with --explain where a request went."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", nargs="?")
        parser.add_argument(
            "--explain", metavar="REQUEST_ID", help="say where this request went, by the ledger, and why"
        )
        parser.add_argument("--prompt-tokens", type=int, default=1000)
        parser.add_argument(
            "--max-tokens", type=int, help="what the request allows; left out: it does not say"
        )
        parser.add_argument("--surface", choices=("chat", "completions", "embeddings"), default="chat")
        parser.add_argument("--needs", default="", help="capabilities, such as tools,vision")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["explain"]:
            self._explain(options["explain"], is_json=options["json"])
            return
        if not options["model"]:
            raise CommandError("name a model, or a request with --explain REQUEST_ID")
        snapshot = load_snapshot(now=timezone.now(), now_s=time.monotonic())
        if options["model"] not in snapshot.fleet.routes:
            known = ", ".join(snapshot.fleet.routes) or "none"
            raise CommandError(f"there is no model {options['model']!r} here; there are: {known}")
        decision = choose(_profile(options), snapshot.fleet, {}, time.monotonic(), MIDDLE)
        if options["json"]:
            self.stdout.write(json.dumps(_document(decision), indent=2))
            return
        self._print(decision)

    def _explain(self, request_id: str, *, is_json: bool) -> None:
        """What the ledger kept of a request that was served."""
        attempts = load_attempts(request_id=request_id)
        if not attempts:
            raise CommandError(
                f"no settled attempt of request {request_id!r}: is it still running, or pruned? "
                f"Each answer has its id in the header x-request-id"
            )
        if is_json:
            self.stdout.write(json.dumps(request_document(attempts), indent=2))
            return
        for attempt in attempts:
            self.stdout.write(
                f"Attempt {attempt.number} at {attempt.cluster} / {attempt.served_model}: {attempt.outcome}, "
                f"{usd_text(attempt.cost_nanousd)}, {attempt.duration_ms} ms"
            )
            for line in attempt.explanation:
                self.stdout.write(f"  {line}")

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

"""How far a request has come: what it tried, and what its refusals taught about where it may still go."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from gateway.attempt import Attempt
from gateway.errors import GatewayError, UpstreamRefusedError
from gateway.refusal_kinds import FILTERED, TOO_LONG
from gateway.refusals import listed
from gateway.upstream import UpstreamFailure
from routing.types import Decision, RequestProfile, RoutePlan


@dataclass(slots=True, kw_only=True)
class Course:
    """One request's attempts so far; each place is tried once, and once more where one of its servers failed.

    A cluster that failed is left alone whatever it serves. One that refused the request for its length or
    its content is well: only that deployment is left alone, and the refusal opens the fallbacks for it.
    """

    attempt_count: int = 0
    context_tokens_min: int = 0
    is_content_filtered: bool = False
    tried: set[str] = field(default_factory=set)
    last_decision: Decision | None = None
    # It waits, or waited, for a cluster to wake: no cluster is late for that.
    is_excused: bool = False

    def told(self, profile: RequestProfile) -> RequestProfile:
        """The request as routing should see it now."""
        if not self.context_tokens_min and not self.is_content_filtered:
            return profile
        return replace(
            profile,
            context_tokens_min=self.context_tokens_min,
            is_content_filtered=self.is_content_filtered,
        )

    def on_attempt(self, *, cluster: str) -> int:
        """The number of the attempt that is made now, from 1."""
        self.tried.add(cluster)
        self.attempt_count += 1
        return self.attempt_count

    def on_failure(self, attempt: Attempt, failed: UpstreamFailure) -> bool:
        """Whether another place may do better."""
        deployment = attempt.candidate.deployment
        if failed.is_of_address:
            # Its other servers may do better: so may the cluster.
            self.tried.discard(deployment.cluster)
        if not failed.refusal:
            return failed.is_retryable
        self.tried.discard(deployment.cluster)
        self.tried.add(deployment.id)
        if failed.refusal == TOO_LONG:
            self.context_tokens_min = max(self.context_tokens_min, deployment.context_window + 1)
        elif failed.refusal == FILTERED:
            self.is_content_filtered = True
        return True

    def final_error(self, failed: UpstreamFailure, *, plan: RoutePlan) -> GatewayError:
        """The error of the last failure; where fallbacks were meant for it, with why none of them took it."""
        error, decision = failed.error, self.last_decision
        if not isinstance(error, UpstreamRefusedError) or decision is None or decision.ranked:
            return error
        if failed.refusal == TOO_LONG and plan.context_fallbacks:
            kind = "context fallback"
        elif failed.refusal == FILTERED and plan.content_filter_fallbacks:
            kind = "content-filter fallback"
        else:
            return error
        return UpstreamRefusedError(
            f"{error.message} No {kind} of `{plan.model}` can take it ({listed(decision)}).",
            upstream_status=error.upstream_status,
            param=error.param,
            code=error.upstream_code,
        )

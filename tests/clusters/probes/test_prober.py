import asyncio
import json
import time

import pytest

from clusters.demo.standin import StandinSettings
from clusters.health import Observation
from clusters.probes import open_client, probe
from clusters.probes import prober as prober_module
from clusters.signing import BearerSigner, Rfc9421Signer
from clusters.verifying.signatures import Verifier, make_verifier
from tests.changes import replace
from tests.clusters.probes.target import NOW_S, FakeServer, Target, ask
from tests.fakes.standin_server import run_standin

MODELS = json.dumps({"data": [{"id": "llama", "max_model_len": 4096}]})


def busy(tokens, running=2):
    return (
        f"vllm:num_requests_waiting 1\nvllm:num_requests_running {running}\n"
        f"vllm:generation_tokens_total {tokens}\n"
    )


def seen(observation):
    """Without what another test looks at: how long it took, and the server's clock."""
    return replace(observation, duration_ms=0, clock_skew_s=None)


@pytest.mark.parametrize("backend", ["vllm", "sglang", "llamacpp", "tgi"])
async def test_probe_asks_health_and_metrics(backend):
    server = FakeServer({"/health": (200, b"")})

    observation = await ask(server, backend=backend)

    assert seen(observation) == Observation(is_healthy=True)
    assert [request[:2] for request in server.requests] == [("GET", "/health"), ("GET", "/metrics")]


async def test_probe_of_a_busy_cluster_measures_its_speed():
    server = FakeServer({"/health": (200, ""), "/metrics": [(200, busy(0)), (200, busy(1000))]})

    observation = await ask(server, sample_gap_s=0.1)

    assert (observation.queue_depth, observation.running_count) == (1, 2)
    assert observation.generated_tokens_total == 1000
    assert 1000 < observation.tokens_per_s <= 10_000


async def test_probe_of_an_idle_cluster_looks_once_and_knows_no_speed():
    server = FakeServer({"/health": (200, ""), "/metrics": (200, busy(1000, running=0))})

    observation = await ask(server)

    expected = Observation(is_healthy=True, queue_depth=1, running_count=0, generated_tokens_total=1000)
    assert seen(observation) == expected
    assert len(server.requests) == 2


@pytest.mark.parametrize("target", [{"deployments": ()}, {"discovery": "always"}])
async def test_probe_asks_for_models_where_none_is_known_or_they_are_followed(target):
    server = FakeServer({"/health": (200, ""), "/v1/models": (200, MODELS)})

    observation = await ask(server, **target)

    assert (observation.models, observation.context_windows) == (("llama",), (("llama", 4096),))


@pytest.mark.parametrize("reply", [(404, ""), (200, "<html>")])
async def test_probe_without_a_listing_is_healthy_still(reply):
    server = FakeServer({"/health": (200, ""), "/v1/models": reply})

    assert seen(await ask(server, deployments=())) == Observation(is_healthy=True)


@pytest.mark.parametrize(
    ("status", "reason", "is_absent"),
    [
        (503, "not ready (HTTP 503): starting, or its engine is dead", True),
        (502, "/health answers HTTP 502", True),
        (404, "there is no /health (HTTP 404): check endpoint and backend", False),
        (307, "/health redirects (HTTP 307), which is not followed: correct the endpoint", False),
        (500, "/health answers HTTP 500", False),
    ],
)
async def test_probe_says_why_a_cluster_is_unhealthy(status, reason, is_absent):
    observation = await ask(FakeServer({"/health": (status, "x")}))

    assert observation == Observation(is_healthy=False, reason=reason, is_absent=is_absent)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credential_is_conclusive(status):
    server = FakeServer({"/health": (200, ""), "/v1/models": (status, "")})

    observation = await ask(server, auth_type="bearer", signer=BearerSigner("wrong"))

    assert observation == Observation(
        is_healthy=False,
        reason=f"credential refused (HTTP {status} from /v1/models): store the right secret",
        is_conclusive=True,
    )


async def test_llamacpp_asks_for_its_key_at_the_metrics_only():
    server = FakeServer({"/health": (200, ""), "/metrics": (401, "")})

    assert (await ask(server, backend="llamacpp")).is_conclusive is True
    assert (await ask(server, backend="vllm")).is_healthy is True


@pytest.mark.parametrize("metrics", [(404, ""), (501, ""), (200, "<html>"), (500, "")])
async def test_metrics_that_fail_leave_the_load_unknown(metrics):
    server = FakeServer({"/health": (200, ""), "/metrics": metrics})

    assert seen(await ask(server)) == Observation(is_healthy=True)


@pytest.mark.parametrize(
    ("backend", "path"),
    [("openai", "/v1/models"), ("claude", "/v1/models"), ("gemini", "/v1beta/models")],
)
async def test_provider_is_asked_for_its_models_alone(backend, path):
    server = FakeServer({path: (200, MODELS)})

    observation = await ask(server, kind="provider", backend=backend, auth_type="bearer")

    assert (observation.is_healthy, observation.models) == (True, ("llama",))
    assert [request[:2] for request in server.requests] == [("GET", path)]
    assert ("anthropic-version" in server.requests[0][2]) == (backend == "claude")


async def test_what_azure_lists_is_not_what_is_deployed_there():
    server = FakeServer({"/openai/v1/models": (200, MODELS)})

    observation = await ask(server, kind="provider", backend="azure", auth_type="bearer", deployments=())

    assert (observation.is_healthy, observation.models) == (True, None)


@pytest.mark.parametrize(("status", "is_healthy"), [(404, True), (200, True), (403, False), (503, False)])
async def test_bedrock_is_reached_and_asked_for_nothing(status, is_healthy):
    server = FakeServer({"/": (status, "{}")})

    observation = await ask(server, kind="provider", backend="bedrock", auth_type="sigv4")

    assert (observation.is_healthy, observation.models) == (is_healthy, None)
    assert [request[:2] for request in server.requests] == [("GET", "/")]


async def test_provider_that_lists_nothing_is_unhealthy():
    observation = await ask(FakeServer({"/v1/models": (200, "<html>")}), backend="openai")

    assert observation.reason == "/v1/models answers no list of models: check endpoint and backend"


async def test_ollama_is_asked_for_its_version():
    server = FakeServer({"/api/version": (200, '{"version":"0.9"}')})

    assert seen(await ask(server, backend="ollama")) == Observation(is_healthy=True)
    assert [request[1] for request in server.requests] == ["/api/version"]


async def test_secret_that_cannot_be_read_is_not_asked_with():
    server = FakeServer({})

    observation = await ask(server, secret_problem="key 12345678 is missing")

    assert observation == Observation(is_healthy=False, reason="key 12345678 is missing", is_conclusive=True)
    assert server.requests == []


async def test_each_request_is_signed_with_a_nonce_of_its_own():
    server = FakeServer(
        {"/health": (200, ""), "/v1/models": (200, MODELS), "/metrics": (200, busy(1, running=0))}
    )

    await ask(server, auth_type="hmac", signer=Rfc9421Signer(secrets=(("k", "s"),)))

    verifier = Verifier(secrets=["s"])
    reasons = [
        verifier.verify(
            method=method,
            authority=headers["host"],
            path=path,
            query="",
            headers=headers,
            body=b"",
            now_s=NOW_S,
        )
        for method, path, headers in server.requests
    ]
    assert reasons == [None, None, None]


async def test_endless_answer_is_cut():
    server = FakeServer({"/health": (200, b"x" * (4 * 1024 * 1024 + 1))})

    assert "answers more than" in (await ask(server)).reason


class SlowServer(FakeServer):
    """

    from tests.changes import replace
    Answers at `slow_path` after an hour."""

    slow_path = "/health"

    async def __call__(self, scope, receive, send):
        if scope["path"] == self.slow_path:
            await asyncio.sleep(3600)
        await super().__call__(scope, receive, send)


async def test_probe_ends_in_time(monkeypatch):
    monkeypatch.setattr(prober_module, "TOTAL_TIMEOUT_S", 0.05)

    observation = await ask(SlowServer({}))

    assert observation == Observation(is_healthy=False, reason="no answer within 0 s", is_absent=True)


async def test_metrics_that_hang_leave_the_load_unknown(monkeypatch):
    monkeypatch.setattr(prober_module, "TOTAL_TIMEOUT_S", 0.2)
    server = SlowServer({"/health": (200, "")})
    server.slow_path = "/metrics"

    assert seen(await ask(server)) == Observation(is_healthy=True)


async def probed(target):
    async with open_client(cluster=target) as client:
        return await probe(cluster=target, client=client, now_s=NOW_S, nonce="nonce-0001", sample_gap_s=0.06)


async def test_probe_of_a_real_stand_in():
    with run_standin(StandinSettings(models=("llama-3-8b",), context_tokens_max=4096)) as standin:
        observation = await probed(Target(endpoint=standin.url, deployments=()))

    assert abs(observation.clock_skew_s - (int(time.time()) - NOW_S)) <= 2  # noqa: TID251 -- the server's clock
    assert seen(observation) == Observation(
        is_healthy=True,
        queue_depth=0,
        running_count=0,
        generated_tokens_total=0,
        models=("llama-3-8b",),
        context_windows=(("llama-3-8b", 4096),),
    )


async def test_probe_of_a_stand_in_that_verifies_signatures():
    """The verifier reads the clock, so a signature of long ago is refused: that is what is seen here."""
    with run_standin(StandinSettings(verify=make_verifier(secret="s"))) as standin:
        signer = Rfc9421Signer(secrets=(("k", "s"),))
        observation = await probed(Target(endpoint=standin.url, auth_type="hmac", signer=signer))

    assert (observation.is_healthy, observation.is_conclusive) == (False, True)

"""One test's own clusters, models and keys on a gateway that many tests share."""

import contextlib
import secrets
import socket
import time
from dataclasses import dataclass, field

import orjson

from clusters.demo.standin import StandinSettings
from tests.fakes.standin_server import RunningStandin, run_standin

CHAT_PATH = "/v1/chat/completions"
SEEN_S_MAX = 5.0
POLL_S = 0.01
# Micro-USD per million tokens, for prompt and answer.
PRICE = (1_500_000, 7_300_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    id: str
    key: str = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster of the gateway and, unless it is dead, the stand-in behind it."""

    name: str
    standin: RunningStandin | None

    @property
    def records(self):
        """The upstream's own lines of ended attempts, oldest first."""
        return list(self.standin.app.records)

    @property
    def received_count(self):
        return len(self.standin.app.received)


class Fleet:
    """`add_cluster`, `issue_key` and so on, then `ready`; all of it is taken away after the test.

    Clusters are preferred in the order in which they are added.
    """

    def __init__(self, *, control, gateway, observer):
        self.control = control
        self.gateway = gateway
        self.token = secrets.token_hex(4)
        self.model = f"acme/model-{self.token}"
        self._observer = observer
        self._stack = contextlib.ExitStack()
        self._sites = []
        self._routes = []
        self.keys = []

    # --- What the test has

    def add_cluster(
        self,
        *,
        kind="own",
        price=None,
        is_priced=True,
        model=None,
        is_dead=False,
        standin=None,
        context_window=65_536,
        endpoint=None,
        secret=None,
        certificates=None,
        upstream_name="",
        **values,
    ):
        """Another cluster that serves `model`; `standin` are settings of the stand-in, `price` its rates.

        With an `endpoint` it is a server of the test's own, and `secret` are what it is asked with, by label,
        `certificates` what TLS to it needs, by purpose.
        Without a price a provider has PRICE, unless it is not priced, and an own one its internal rate.
        """
        number = len(self._sites) + 1
        model = model or self.model
        server = None
        if endpoint is not None:
            url = endpoint
        elif is_dead:
            url = f"http://127.0.0.1:{self._stack.enter_context(closed_port())}"
        else:
            given = {"name": f"site-{number}", "models": (model,), **(standin or {})}
            server = self._stack.enter_context(run_standin(StandinSettings(**given)))
            url = server.url
        site = Site(name=f"{kind}{number}-{self.token}", standin=server)
        is_own = kind == "own"
        self.control.call(
            "add_cluster",
            name=site.name,
            values={
                "kind": kind,
                "provider": "hetzner" if is_own else "openai",
                "region": f"eu-{number}",
                "endpoint": url,
                "backend": "vllm" if is_own else "openai",
                "allow_private_network": True,
                "billing": "committed" if is_own else "metered",
                "cost_per_hour_nanousd": 360_000_000 * number if is_own else 0,
                "tokens_per_s": 100 if is_own else None,
                **values,
            },
            model=model,
            deployment={"context_window": context_window, "upstream_name": upstream_name},
            price=price or (PRICE if is_priced and not is_own else None),
            secret=secret,
            certificates=certificates,
        )
        self._sites.append(site)
        return site

    def add_route(self, *, model, candidates, fallbacks=(), **values):
        self._routes.append(model)
        self.control.call("add_route", model=model, candidates=candidates, fallbacks=fallbacks, **values)

    def issue_key(self, *, hard_limit_nanousd=None, budgets=(), **limits):
        name = f"key{len(self.keys) + 1}-{self.token}"
        if hard_limit_nanousd is not None:
            budgets = [{"limit_nanousd": hard_limit_nanousd, "window": "month", "is_hard": True}, *budgets]
        issued = self.control.call(
            "issue_key", name=name, team=f"team-{self.token}", budgets=budgets, **limits
        )
        key = Key(**issued)
        self.keys.append(key)
        return key

    def ready(self):
        """Wait until the gateway knows all that was entered so far.

        Its reading of the tables is no transaction: the first marker may be seen with half of what was
        written before it. The second is only seen by a reading that began after that.
        """
        for _ in range(2):
            marker = f"marker-{self.token}-{len(self._routes)}"
            self.add_route(model=marker, candidates=[self.model])
            self.wait_for_model(marker)
        return self

    def wait_for_model(self, model, *, within_s=SEEN_S_MAX):
        def is_listed():
            headers = {"authorization": f"Bearer {self._observer.key}"}
            answer = self.gateway.get("/v1/models", headers=headers)
            return answer.status_code == 200 and model in {entry["id"] for entry in answer.json()["data"]}

        return wait_until(is_listed, within_s=within_s)

    # --- How it calls

    def client(self, key, *, max_retries=0, **options):
        """The official SDK with this key."""
        return self.gateway.sdk.with_options(api_key=key.key, max_retries=max_retries, **options)

    def ask(self, key, *, text="Say something.", **members):
        """One plain chat through the SDK."""
        return self.client(key).chat.completions.create(**self.chat(text, **members))

    def post(self, key, body, *, path=CHAT_PATH, headers=None):
        """A request as it is, without the SDK; `body` is a document or bytes."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        given = {"authorization": f"Bearer {key.key}", "content-type": "application/json", **(headers or {})}
        return self.gateway.client.post(path, content=content, headers=given)

    def frames(self, key, text="Say something.", **members):
        """The events of a chat's stream as bytes, in order, its `[DONE]` included."""
        answer = self.post(key, self.chat(text, stream=True, **members))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [frame.removeprefix(b"data: ") for frame in answer.content.split(b"\n\n") if frame]

    def earn_reroutes(self, count):
        """Traffic that allows `count` re-routes: a tenth of what is sent may be sent again."""
        model = f"warm-{self.token}"
        self.add_cluster(model=model)
        self.ready()
        for _ in range(10 * count):
            answer = self.post(self._observer, {**self.chat(max_tokens=1), "model": model})
            assert answer.status_code == 200, answer.text

    def chat(self, text="Say something.", **members):
        return {"model": self.model, "messages": [{"role": "user", "content": text}], **members}

    # --- What the ledger says

    def settled_rows(self, key, *, count):
        """The key's usage rows, oldest first, once there are so many."""
        rows = []

        def are_there():
            rows[:] = self.control.call("load_rows", key_id=key.id)
            return len(rows) >= count

        wait_until(are_there)
        assert len(rows) == count
        return rows

    def windows(self, key):
        return self.control.call("load_windows", key_id=key.id)

    def audit(self):
        return self.control.call("audit", key_ids=[key.id for key in self.keys])

    def close(self):
        self.control.call("forget", clusters=[site.name for site in self._sites], routes=self._routes)
        self._stack.close()


def standin_extra(**knobs):
    """Members of the body that only a stand-in understands; the SDK passes them on."""
    return {"extra_body": {f"standin_{name}": value for name, value in knobs.items()}}


def wait_until(condition, *, within_s=SEEN_S_MAX):
    """Seconds until the condition held; fails when it does not in time."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, "not within its time"
        time.sleep(POLL_S)
    return time.monotonic() - started_s


def token_counts(row):
    """(prompt, completion) as on the wire."""
    prompt = row["input_fresh_tokens"] + row["cache_read_tokens"]
    prompt += row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]
    return prompt, row["output_text_tokens"] + row["reasoning_tokens"] + row["audio_tokens"]


def cost_of(row):
    """The row's cost at its own rate, computed anew: whole pico-USD, rounded up to nano-USD."""
    rate = row["rate"]
    picousd = (
        row["input_fresh_tokens"] * rate["input_microusd_per_mtok"]
        + row["cache_read_tokens"] * rate["cache_read_microusd_per_mtok"]
        + (row["output_text_tokens"] + row["audio_tokens"]) * rate["output_microusd_per_mtok"]
        + row["reasoning_tokens"] * rate["reasoning_microusd_per_mtok"]
    )
    return -(-picousd // 1000)


@contextlib.contextmanager
def closed_port():
    """A port that is taken and refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]

"""No secret is seen anywhere but where it is sent: each surface of a real gateway is searched for all."""

import contextlib
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import psycopg
import pytest
import websockets.sync.client
from django.core.management import get_commands

from tests.e2e.crawl import all_routes, crawl, log_in, route_of
from tests.e2e.fleet import Fleet, Key, wait_until
from tests.fakes.canaries import Canaries, given_canary, shown
from tests.fakes.careless_provider import repeat
from tests.fakes.gateway_server import ROOT, Control, RunningGateway, new_databases
from tests.fakes.provider_server import run_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ADMINISTRATOR = "canary-keeper"
# In this order: what opens the breaker comes last.
CASES = (
    *("refused", "missing", "unprocessable", "page", "ok", "stream", "broken", "raises"),
    *("limited", "nonsense", "slow", "failed", "overloaded", "unauthorised"),
)
# How each kind of provider is given its key.
BACKENDS = {
    "openai": "authorization",
    "claude": "x-api-key",
    "gemini": "x-goog-api-key",
    "azure": "api-key",
}
WAIT_S_MAX = 60
UPDATES = 2
FRAME_S_MAX = 10

# --- What is not asked, and why.

COMMANDS_LEFT_OUT = {
    "serve": "is the gateway under test: its log is searched",
    "up": "runs serve, a worker and beat, whose parts are searched here",
    "bench": "has databases of its own, without a secret of ours",
    "bench_exchange": "reads no database",
    "simulate": "reads no database",
    "demo_cluster": "reads no database",
    "demo_llama": "reads no database",
    "import_prices": "asks the network; it writes prices alone",
    "ledger_grants": "prints SQL of a role; on SQLite it refuses",
}
# Tables that nothing here fills: their pages of one row are asked for a row that is not there.
EMPTY = {"clusters/experiment", "billing/modellimit", "billing/capacityhour", "auth/group"}
ROUTES_LEFT_OUT = {
    "admin/logout/": "ends the session",
    "admin/(?P<url>.*)$": "is what no other address of the admin takes",
    "v1/feedback": "is written to, without an answer",
}

ROW_PAGES = ("", "change/", "delete/", "history/")
ROW = re.compile(r"/admin/(\w+)/(\w+)/(?!0{8}-)[^/?]+/change/")
INPUT = re.compile(r'<input type="(?:hidden|text|number)" name="([^"]+)"(?: value="([^"]*)")?')
SELECT = re.compile(r'<select name="([^"]+)"[^>]*>(.*?)</select>', re.DOTALL)


class Scene:
    """A gateway with a cluster of each kind; what it shows is kept by where it was seen."""

    def __init__(self, *, canaries, control, gateway, fleet, upstream, tls_upstream, closed_port):
        self.canaries, self.control, self.gateway, self.fleet = canaries, control, gateway, fleet
        self.upstream, self.tls_upstream = upstream, tls_upstream
        self.closed_port = closed_port
        self.seen = {}
        self.models = []
        self.add_clusters()
        self.control.call("put_administrator", username=ADMINISTRATOR, password=canaries["password"])
        self.key = self.issue_key("api key")
        fleet.ready()

    # --- What it is given.

    def add_clusters(self):
        canaries = self.canaries
        three = {label: canaries[f"openai {label}"] for label in "abc"}
        for backend in BACKENDS:
            given = three if backend == "openai" else {"a": canaries[backend]}
            self.add("provider", backend=backend, auth_type="bearer", secret=given)
        self.add("provider", backend="bedrock", auth_type="sigv4", secret={"a": canaries.aws_text})
        self.add("own", auth_type="hmac", secret={"k1": canaries["hmac k1"], "k2": canaries["hmac k2"]})
        certificates = {
            "ca": canaries.server_certificate,
            "client_certificate": canaries.certificate,
            "client_key": canaries["mtls key"],
        }
        self.add("own", auth_type="mtls", certificates=certificates, endpoint=self.tls_upstream.url)
        self.add("own", auth_type="bearer", secret={"a": canaries["own token"]})
        asleep = {"billing": "autoscaled", "wake_url": f"{self.upstream.url}/wake", "wake_auth": "bearer"}
        asleep |= {"endpoint": f"http://127.0.0.1:{self.closed_port}", "secret": {"a": canaries["own token"]}}
        site = self.add("own", auth_type="bearer", **asleep)
        self.control.call("put_wake_secret", cluster=site.name, secret=canaries["wake token"])

    def add(self, kind, *, endpoint=None, **values):
        model = f"{self.fleet.model}-{len(self.models)}" if self.models else self.fleet.model
        self.models.append(model)
        return self.fleet.add_cluster(
            kind=kind,
            endpoint=endpoint or self.upstream.url,
            model=model,
            price=(1_000_000, 1_000_000),
            **values,
        )

    def issue_key(self, name):
        key = self.fleet.issue_key(budgets=[{"limit_nanousd": 100_000, "window": "month", "is_hard": False}])
        self.canaries.by_name[name] = given_canary(name, text=key.key, core=key.key.rpartition("_")[2])
        webhook = f"{self.upstream.url}/told"
        self.control.call("put_warnings", key_id=key.id, webhook=webhook, email="ops@example.com")
        return key

    # --- What is done with it.

    def drive(self):
        """Each case on each cluster; a cluster's own one after another."""
        with ThreadPoolExecutor(len(self.models)) as threads:
            for found in threads.map(self.drive_cluster, self.models):
                self.seen |= found

    def wake(self):
        """A request finds the last cluster asleep; its hook is called, and refuses."""
        self.control.call("tick")
        self.fleet.ready()
        self.fleet.post(self.key, {**self.fleet.chat("case:ok"), "model": self.models[-1]})
        wait_until(lambda: self.control.call("tick") == [] and self.is_woken(), within_s=WAIT_S_MAX)

    def is_woken(self):
        return any(one.path == "/wake" for one in self.upstream.received)

    def drive_cluster(self, model):
        found = {}
        for case in CASES:
            for path, body in requests_of(model, case):
                answer = self.fleet.post(
                    self.key, body, path=path, headers={"idempotency-key": f"{model}{case}"}
                )
                found[f"{path} {model} {case}"] = seen_of(answer)
        return found

    def read_api(self):
        """All that callers may read, and the key management of those who hold the master key."""
        own = {"authorization": f"Bearer {self.key.key}"}
        master = {"authorization": f"Bearer {self.canaries['GATEWAY_MASTER_KEY']}"}
        wrong = {"authorization": f"Bearer {self.key.key[:-1]}x"}
        row = self.control.call("load_rows", key_id=self.key.id)[0]
        asked = [
            *((path, own) for path in ("/v1/models", f"/v1/models/{self.models[0]}", "/v1/usage", "/v1/")),
            (f"/v1beta/models/{self.models[0]}", own),
            *((path, own) for path in (f"/v1/requests/{row['request_id']}", "/v1/responses/resp_none")),
            *(
                (path, {})
                for path in ("/metrics", "/health", "/health/live", "/health/ready", "/v1/openapi.json")
            ),
            *((path, wrong) for path in ("/v1/models", "/key/info", "/spend/logs")),
            *((path, master) for path in ("/spend/logs", "/v1/models")),
        ]
        for number, (path, headers) in enumerate(asked):
            answer = self.gateway.get(path, headers=headers)
            self.seen[f"{number} {path.partition('?')[0]}"] = seen_of(answer)
        answer = self.gateway.client.delete("/v1/idempotency/none", headers=own)
        self.seen["0 /v1/idempotency/none"] = seen_of(answer)
        self.change_keys(master)

    def change_keys(self, master):
        """LiteLLM's doors: a new key is shown in the answer that makes it, and nowhere else."""
        made = self.gateway.client.post("/key/generate", json={"key_alias": "canary"}, headers=master)
        assert made.status_code == 200, made.text
        text = made.json()["key"]
        self.told = {"/key/generate": seen_of(made)}
        self.canaries.by_name["made key"] = given_canary("made key", text=text, core=text.rpartition("_")[2])
        for path, body in (
            ("/key/update", {"key": text, "max_budget": 1}),
            ("/key/delete", {"keys": [text]}),
            ("/team/new", {"team_alias": "canary"}),
            ("/team/update", {"team_id": "nobody"}),
            ("/v1/messages/count_tokens", {"model": self.models[1], "messages": []}),
            ("/v1/responses/input_tokens", {"model": self.models[1], "input": "case:refused"}),
            ("/v1/embeddings", {"model": self.models[0], "input": "case:refused"}),
            ("/v1/completions", {"model": self.models[0], "prompt": "case:refused"}),
        ):
            headers = master if not path.startswith("/v1") else {"authorization": f"Bearer {self.key.key}"}
            answer = self.gateway.client.post(path, json=body, headers=headers)
            # Who changes a key by its plain text is told which one he named.
            (self.told if path.startswith("/key/") else self.seen)[path] = seen_of(answer)

    # --- What people look at.

    def look(self, *, stage):
        """All pages as an administrator, from each address without an argument on."""
        with httpx.Client(base_url=self.gateway.url, follow_redirects=True, timeout=WAIT_S_MAX) as client:
            log_in(client, username=ADMINISTRATOR, password=self.canaries["password"])
            self.enter_wrongly(client)
            self.watch(client)
            pages = crawl(client, starts=self.starts())
        self.seen |= {f"{stage} {address}": content for address, content in pages.items()}

    def starts(self):
        plain = {f"/{route}" for route in all_routes() if not set("<(?") & set(route)}
        # Callers ask these; the first of them by read_api.
        plain = {path for path in plain if not path.startswith(("/v1/", "/key/", "/team/", "/spend/"))}
        nobody = "00000000-0000-0000-0000-000000000000"
        tables = {route.removesuffix("add/") for route in all_routes() if route.endswith("/add/")}
        of_rows = {f"/{table}{nobody}/{page}" for table in tables for page in ROW_PAGES}
        of_rows |= {f"/admin/{label}/" for label in ("auth", "billing", "clusters")}
        of_rows |= {"/admin/r/1/1/", "/admin/auth/user/1/password/"}
        request_id = self.control.call("load_rows", key_id=self.key.id)[0]["request_id"]
        terms = "app_label=billing&model_name=apikey&field_name=team&term=t"
        others = {f"/requests/{request_id}/", f"/admin/autocomplete/?{terms}"}
        return sorted((plain | of_rows | others) - {"/admin/logout/"})

    def enter_wrongly(self, client):
        """A form with an error is shown again: without the secrets that were entered with it."""
        canaries, path = self.canaries, "/admin/clusters/cluster/add/"
        form = {
            **fields_of(client.get(path).text),
            "name": "no name at all",
            "secret": canaries["openai a"],
            "wake_secret": canaries["wake token"],
            "client_key": canaries["mtls key"],
        }
        answer = client.post(path, data=form)
        assert answer.status_code == 200
        assert "errorlist" in answer.text
        self.seen["form with an error"] = seen_of(answer)

    def watch(self, client):
        """The live page's own words."""
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
        url = f"{self.gateway.url.replace('http', 'ws', 1)}/ws/live/"
        headers = {"Cookie": cookies, "Origin": self.gateway.url}
        with websockets.sync.client.connect(url, additional_headers=headers) as socket_:
            frames = [socket_.recv(timeout=FRAME_S_MAX) for _ in range(UPDATES)]
        self.seen["live page"] = "\n".join(frames).encode()

    def run_commands(self, *, folder):
        """Each command that prints something of the installation."""
        lists = self.command_lines(folder=folder)
        codes_path = folder / "codes.json"
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.commands", str(codes_path)],
            cwd=ROOT,
            env=self.control.env,
            input=orjson.dumps([[str(word) for word in words] for words, _ in lists]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        self.seen["commands"] = done.stdout
        codes = orjson.loads(codes_path.read_bytes())
        self.codes = {" ".join(map(str, words)): code for (words, _), code in zip(lists, codes, strict=True)}
        self.expected_codes = {" ".join(map(str, words)): code for words, code in lists}
        self.seen |= {path.name: path.read_bytes() for path in folder.iterdir()}

    def command_lines(self, *, folder):
        """(words, exit code)."""
        row = self.control.call("load_rows", key_id=self.key.id)[0]
        wrong = folder / "wrong.yaml"
        wrong.write_text("clusters: [{name: x, sharedSecret: ${OWN}, authType: [}]\n")
        no_rows = folder / "none.csv"
        no_rows.write_text("wrong\n")
        return [
            (("check_clusters",), 0),
            (("check_clusters", "--json"), 0),
            (("doctor", "--url", self.gateway.url), 1),
            (("doctor", "--url", self.gateway.url, "--json"), 1),
            (("export_config",), 0),
            (("export_config", "--output", folder / "exported.yaml"), 0),
            (("import_config", folder / "exported.yaml", "--dry-run"), 0),
            (("import_config", wrong), 1),
            (("dumpdata", "--all"), 0),
            *(
                (("dumpdata", "--all", "--database", name), 0)
                # PostgreSQL keeps all in one.
                for name in (() if "DATABASE_URL" in self.control.env else ("ledger",))
            ),
            (("route", self.models[0], "--json"), 0),
            (("route", "--explain", row["request_id"]), 0),
            (("route", "--explain", row["request_id"], "--json"), 0),
            (("replay", "--from", "2026-01-01", "--json"), 0),
            (("export_usage",), 0),
            (("export_usage", "--format", "focus"), 0),
            (("usage_report", "--json"), 0),
            (("export_prices",), 0),
            (("reconcile_ledger", "--json"), 0),
            (("rerate", "--from", "2026-01-01", "--at", "2030-01-01", "--json"), 0),
            (("fold_rollups",), 0),
            (("fold_capacity",), 0),
            (("prune", "--dry-run"), 0),
            (("warn_budgets",), 0),
            (("rotate_secrets",), 0),
            (("experiment_report", "none"), 1),
            (("create_api_key", "--team", "canaries", "--name", "shown-once"), 0),
            (("override_budget", "00000000-0000-0000-0000-000000000000", "--end"), 1),
            (("set_replicas", "nobody", "1"), 1),
            (("import_usage", no_rows), 1),
            (("import_hourly_costs", no_rows), 1),
        ]

    # --- What is kept.

    def read_kept(self):
        """The log, and each byte of the databases and of whatever else stands in the data folder."""
        self.seen["log"] = self.gateway.log_path.read_bytes()
        self.seen["command line"] = Path(f"/proc/{self.gateway.process.pid}/cmdline").read_bytes()
        self.database = {}
        for path in Path(self.control.env["GATEWAY_DATA_DIR"]).rglob("*"):
            if path.is_file():
                self.database[f"file {path.name}"] = path.read_bytes()
        if url := self.control.env.get("DATABASE_URL"):
            self.database |= tables_of(url)
        self.seen |= self.database


def requests_of(model, case):
    """(path, body) of the surfaces that this case is asked on."""
    message = {"role": "user", "content": f"case:{case}"}
    chat = {"model": model, "messages": [message], "max_tokens": 5}
    yield "/v1/chat/completions", {**chat, "stream": case in {"stream", "broken"}}
    if case in {"refused", "ok"}:
        yield "/v1/messages", chat
        yield "/v1/responses", {"model": model, "input": f"case:{case}", "max_output_tokens": 16}


def seen_of(answer):
    return b"\n".join([repr(answer.headers.multi_items()).encode(), answer.content])


def fields_of(page):
    """What a form would send as it stands: its hidden inputs, texts and chosen options, near enough."""
    found = dict(INPUT.findall(page))
    for name, options in SELECT.findall(page):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    return found


def tables_of(url):
    """By name: the rows of each table as PostgreSQL keeps them."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = {}
        for (name,) in names:
            with connection.cursor().copy(f"COPY (SELECT * FROM {name}) TO STDOUT (FORMAT binary)") as rows:
                found[f"table {name}"] = b"".join(rows)
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canary")
    canaries = Canaries(folder)
    with contextlib.ExitStack() as stack:
        mail = stack.enter_context(socket.socket())
        mail.bind(("127.0.0.1", 0))
        env = stack.enter_context(new_databases(tmp_path_factory.mktemp("data")))
        control = Control({**env, **canaries.environment(mail_port=mail.getsockname()[1])})
        stack.callback(control.close)
        observer = Key(**control.call("issue_key", name="observer", team="observers"))
        gateway = RunningGateway(
            env=control.env, log_path=folder / "gateway.log", settings_module="tests.e2e.canary_settings"
        )
        stack.callback(gateway.close)
        gateway.wait_until_ready()
        upstream = stack.enter_context(run_provider(repeat))
        tls_upstream = stack.enter_context(run_provider(repeat, tls=canaries.context))
        fleet = Fleet(control=control, gateway=gateway, observer=observer)
        scene = Scene(
            canaries=canaries,
            control=control,
            gateway=gateway,
            fleet=fleet,
            upstream=upstream,
            tls_upstream=tls_upstream,
            closed_port=mail.getsockname()[1],
        )
        scene.wake()
        scene.drive()
        scene.read_api()
        scene.run_commands(folder=tmp_path_factory.mktemp("commands"))
        control.call("tick")
        scene.look(stage="page")
        scene.read_kept()
        yield scene


def test_every_secret_is_seen_where_it_is_sent(scene):
    """So the search finds what is there. A signing secret and a private key are sent nowhere."""
    received = [*scene.upstream.received, *scene.tls_upstream.received]
    sent = b"\n".join(repr(one.headers).encode() for one in received)

    tokens = {f"openai {label}" for label in "abc"} | {"claude", "gemini", "azure", "own token", "wake token"}
    assert set(shown(scene.canaries.all, sent)) == tokens | {"aws id"}
    assert {one.headers.get("authorization") for one in scene.tls_upstream.received} == {None}
    signed = [one for one in scene.upstream.received if "signature" in one.headers and one.method == "POST"]
    assert signed
    assert {path: shown(scene.canaries.all, data) for path, data in scene.told.items()} == {
        path: ["made key"] for path in ("/key/generate", "/key/update", "/key/delete")
    }
    assert shown(scene.canaries.all, scene.canaries["mtls key"].encode()) == ["mtls key"]


def test_no_surface_shows_a_secret(scene):
    leaks = {where: names for where, data in scene.seen.items() if (names := shown(scene.canaries.all, data))}

    assert leaks == {}, leaks


def test_every_case_met_an_upstream(scene):
    """Else a breaker may have kept some of them from being tried."""
    received = b"\n".join(one.path.encode() + one.body for one in scene.upstream.received)
    received += b"\n".join(one.body for one in scene.tls_upstream.received)
    met = {case for case in CASES if b"case:%b" % case.encode() in received}

    assert met == set(CASES) - {"raises"}
    signed = [one for one in scene.upstream.received if "signature" in one.headers and one.method == "POST"]
    assert {case for case in CASES if any(b"case:%b" % case.encode() in one.body for one in signed)} == met


def test_bug_left_a_traceback_in_the_log(scene):
    log = scene.seen["log"].decode()

    assert "a bug beside" in log
    assert "Traceback" in log


def test_databases_were_searched_as_they_are(scene):
    prefix = scene.key.key[:11].encode()
    model = scene.models[0].encode()

    assert any(prefix in data for data in scene.database.values())
    assert any(model in data for data in scene.database.values())


def test_every_route_was_asked(scene):
    asked = {route_of(urlsplit(where.partition(" ")[2] or where).path) for where in scene.seen}
    asked |= {route_of(where.partition(" ")[0]) for where in scene.seen if where.startswith("/")}
    asked |= {route_of(path) for path in scene.told}

    missing = all_routes() - asked - set(ROUTES_LEFT_OUT)
    assert missing == set(), missing


def test_a_row_of_every_table_was_looked_at(scene):
    rows = {"/".join(found) for where in scene.seen for found in ROW.findall(where)}
    tables = {route[len("admin/") : -len("/add/")] for route in all_routes() if route.endswith("/add/")}

    assert tables - rows == EMPTY, (tables - rows) ^ EMPTY


def test_every_command_was_run(scene):
    ours = {name for name, app in get_commands().items() if app in {"gateway", "clusters", "billing"}}
    run = {words.partition(" ")[0] for words in scene.codes}

    assert ours - run == set(COMMANDS_LEFT_OUT)
    assert scene.codes == scene.expected_codes

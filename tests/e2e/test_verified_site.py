"""The gateway before an own cluster as operators build it: mutual TLS, signatures, the real llama.cpp."""

import shutil

import pytest

from tests.e2e.fleet import token_counts
from tests.fakes.verified_site import run_site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt: nginx)"),
]
SECRET = "s3cret"
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}
USED = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
TOOLS_ROUND = [
    {"role": "assistant", "content": None, "tool_calls": [USED]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with run_site(tmp_path_factory.mktemp("site"), secret=SECRET) as site:
        yield site


def add_site(fleet, site, *, client="client", auth_type="hmac", secret=SECRET):
    certificates = {"ca": site.pems["ca.pem"]}
    if client:
        certificates |= {
            "client_certificate": site.pems[f"{client}.pem"],
            "client_key": site.pems[f"{client}.key"],
        }
    fleet.add_cluster(
        endpoint=site.url,
        backend="llamacpp",
        auth_type=auth_type,
        context_window=8192,
        upstream_name="tiny-bigram",
        secret={"k1": secret} if auth_type == "hmac" else None,
        certificates=certificates,
    )
    key = fleet.issue_key()
    fleet.ready()
    return key


def test_llamacpp_behind_certificates_and_signatures_serves_all_surfaces(fleet, site):
    key = add_site(fleet, site)
    client = fleet.client(key)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    tools = {"tools": [WEATHER], "max_tokens": 5}
    messages = [*fleet.chat("the weather")["messages"], *TOOLS_ROUND]

    plain = fleet.ask(key, text="the gateway", max_tokens=5, temperature=0)
    chunks = list(fleet.ask(key, text="the gateway", max_tokens=5, temperature=0, **options))
    embedded = client.embeddings.create(model=fleet.model, input="the gateway", encoding_format="float")
    called = client.chat.completions.create(**{**fleet.chat(), "messages": messages, **tools})

    rows = fleet.settled_rows(key, count=4)
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == plain.choices[0].message.content
    assert len(embedded.data[0].embedding) == 576
    usages = [plain.usage, chunks[-1].usage, called.usage]
    assert [(used.prompt_tokens, used.completion_tokens) for used in usages] == [
        token_counts(row) for row in (rows[0], rows[1], rows[3])
    ]
    assert token_counts(rows[2]) == (embedded.usage.prompt_tokens, 0)
    assert [(row["surface"], row["outcome"], row["is_estimate"]) for row in rows] == [
        ("chat", "ok", False),
        ("chat", "ok", False),
        ("embeddings", "ok", False),
        ("chat", "ok", False),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"secret": "an0ther"}, "refused the gateway's own credential; its operator must renew it."),
        ({"auth_type": "mtls"}, "refused the gateway's own credential; its operator must renew it."),
        ({"client": "stranger"}, "not accept the gateway's client certificate: store one that it knows."),
        ({"client": ""}, "not accept the gateway's client certificate: store one that it knows."),
    ],
    ids=["wrong secret", "unsigned", "a stranger's certificate", "no certificate"],
)
def test_site_that_does_not_know_the_gateway_serves_nothing_and_says_so(fleet, site, values, message):
    key = add_site(fleet, site, **values)

    answer = fleet.post(key, fleet.chat("the gateway", max_tokens=5))

    assert answer.status_code == 502
    assert answer.json()["error"]["message"].endswith(message)
    assert [row["outcome"] for row in fleet.settled_rows(key, count=1)] == ["failed"]

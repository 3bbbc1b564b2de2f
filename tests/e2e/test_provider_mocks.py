"""Provider mocks that others wrote, unchanged, as upstreams.

llmock (PyPI) is started here. aimock runs where AIMOCK_URL names one:
`npx -p @copilotkit/aimock llmock -p 4010 -f node_modules/@copilotkit/aimock/fixtures`.
"""

import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from tests.e2e.fleet import wait_until
from tests.fakes.gateway_server import START_S_MAX, STOP_S_MAX
from tests.fakes.ports import free_port

pytestmark = pytest.mark.e2e

AWS_KEY = f"{'A' * 20}:{'s' * 40}"
PROVIDERS = {
    "openai": {"backend": "openai", "upstream_name": "gpt-4o"},
    "azure": {"backend": "azure", "upstream_name": "gpt-4o"},
    "claude": {"backend": "claude", "upstream_name": "claude-sonnet-4-5"},
    "gemini": {"backend": "gemini", "upstream_name": "gemini-2.5-flash"},
    "bedrock": {
        "backend": "bedrock",
        "auth_type": "sigv4",
        "upstream_name": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    },
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


LLMOCK = "from llmock.cli import app; app()"
# Where llmock has each provider.
LLMOCK_PATHS = {
    "openai": "",
    "claude": "/anthropic",
    "gemini": "/gemini",
    "groq": "/groq/openai",
    "mistral": "/mistral",
    "together": "/together",
    "xai": "/xai",
}


@pytest.fixture(scope="module")
def aimock_url():
    return os.environ.get("AIMOCK_URL") or pytest.skip("AIMOCK_URL names no mock")


@pytest.fixture(scope="module")
def llmock_url():
    url = f"http://127.0.0.1:{free_port()}"
    options = ("--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--log-level", "warning")
    process = subprocess.Popen([sys.executable, "-c", LLMOCK, "serve", *options])
    try:
        wait_until(lambda: process.poll() is not None or is_open(url), within_s=START_S_MAX)
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(STOP_S_MAX)


def is_open(url):
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1).close()
    except OSError:
        return False
    return True


def asking(fleet, url, provider):
    """A key that may ask this mock as that provider."""
    values = {"kind": "provider", "auth_type": "bearer", **PROVIDERS.get(provider, PROVIDERS["openai"])}
    fleet.add_cluster(endpoint=url, secret={"a": AWS_KEY}, **values)
    key = fleet.issue_key()
    fleet.ready()
    return key


def said(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_aimock_says_the_same_plain_and_streamed(fleet, aimock_url, provider):
    key = asking(fleet, aimock_url, provider)

    plain = fleet.ask(key, text="hello").choices[0]
    chunks = list(fleet.ask(key, text="hello", stream=True))

    assert (plain.message.content, plain.finish_reason) == ("Hello! How can I help you today?", "stop")
    assert said(chunks) == plain.message.content
    rows = fleet.settled_rows(key, count=2)
    assert [row["outcome"] for row in rows] == ["ok", "ok"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_aimock_calls_a_tool_plain_and_streamed(fleet, aimock_url, provider):
    key = asking(fleet, aimock_url, provider)

    plain = fleet.ask(key, text="Weather?", tools=[WEATHER]).choices[0]
    chunks = list(fleet.ask(key, text="Weather?", tools=[WEATHER], stream=True))

    (call,) = plain.message.tool_calls
    deltas = [each for chunk in chunks for choice in chunk.choices for each in choice.delta.tool_calls or ()]
    assert (plain.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert deltas[0].function.name == "get_weather"
    assert "".join(each.function.arguments or "" for each in deltas) == call.function.arguments
    rows = fleet.settled_rows(key, count=2)
    assert [row["outcome"] for row in rows] == ["ok", "ok"]


@pytest.mark.parametrize("provider", LLMOCK_PATHS)
def test_llmock_says_something_plain_and_streamed(fleet, llmock_url, provider):
    key = asking(fleet, llmock_url + LLMOCK_PATHS[provider], provider)

    plain = fleet.ask(key).choices[0]
    chunks = list(fleet.ask(key, stream=True))

    assert plain.message.content
    assert said(chunks)
    rows = fleet.settled_rows(key, count=2)
    assert [row["outcome"] for row in rows] == ["ok", "ok"]

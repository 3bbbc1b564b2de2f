"""A stand-in without a speed limit, new for each test, and a client of it."""

import ssl

import httpx
import pytest

from clusters.demo.standin import StandinSettings
from tests.fakes.standin_server import run_standin

# httpx reads all public roots for each client otherwise, which takes 30 ms; nothing here speaks TLS.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def standin():
    with run_standin(StandinSettings(models=("llama-3-8b", "qwen=Qwen/Qwen3-8B"))) as server:
        yield server


@pytest.fixture
async def client(standin):
    async with httpx.AsyncClient(base_url=standin.url, timeout=5, verify=NO_TLS) as client:
        yield client

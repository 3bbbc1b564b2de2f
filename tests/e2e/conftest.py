"""A real gateway for each test worker, with databases of its own; each test brings its own clusters."""

import pytest

from tests.e2e.fleet import Fleet, Key
from tests.fakes.gateway_server import Control, RunningGateway, new_databases
from tests.fakes.llama_server import llama_starter


@pytest.fixture(scope="session")
def control(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    with new_databases(folder) as env:
        control = Control(env)
        yield control
        control.close()


@pytest.fixture(scope="session")
def observer(control):
    """A key without limits, by which tests see what the gateway knows."""
    return Key(**control.call("issue_key", name="observer", team="observers"))


@pytest.fixture(scope="session")
def gateway(control, observer, tmp_path_factory):
    """With short waits: see tests/e2e/gateway_settings.py."""
    gateway = RunningGateway(
        env=control.env,
        log_path=tmp_path_factory.mktemp("log") / "gateway.log",
        settings_module="tests.e2e.gateway_settings",
    )
    gateway.wait_until_ready()
    yield gateway
    assert gateway.close() == 0


@pytest.fixture(scope="session")
def production_gateway(control, observer, tmp_path_factory):
    """As it is shipped, on the same databases."""
    gateway = RunningGateway(env=control.env, log_path=tmp_path_factory.mktemp("log") / "gateway.log")
    gateway.wait_until_ready()
    yield gateway
    assert gateway.close() == 0


@pytest.fixture(scope="session")
def llama_url(tmp_path_factory):
    """Real llama.cpp over the tiny model, which says nothing sensible and calls no tools."""
    with llama_starter(tmp_path_factory.mktemp("llama")) as start:
        yield start().url


@pytest.fixture
def fleet(control, gateway, observer):
    yield from audited_fleet(control, gateway, observer)


@pytest.fixture
def production_fleet(control, production_gateway, observer):
    yield from audited_fleet(control, production_gateway, observer)


def audited_fleet(control, gateway, observer):
    """After each test: the books of its keys balance, nothing is held, and the gateway logged no error."""
    logged_before = gateway.log_path.stat().st_size
    fleet = Fleet(control=control, gateway=gateway, observer=observer)
    try:
        yield fleet
        assert fleet.audit() == []
        assert gateway.logged_errors(since=logged_before) == []
    finally:
        fleet.close()

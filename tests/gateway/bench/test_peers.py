import shutil

import pytest

from gateway.bench import peers
from gateway.bench.processes import BenchError, Cores, call

NAMES = ["nginx", "haproxy", "sglang-router", "vllm-router", "portkey", "litellm"]


def test_peers_have_their_names():
    assert list(peers.KINDS) == NAMES


@pytest.mark.parametrize("name", NAMES[2:])
def test_a_peer_is_found_in_its_own_folder_only(tmp_path, name):
    kind = peers.KINDS[name]

    missing = kind.find(tmp_path)
    program = tmp_path / name / kind.program
    program.parent.mkdir(parents=True)
    program.touch()

    assert (missing, kind.find(tmp_path)) == ("", str(program))


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_system_program_is_not_installed_by_us(tmp_path, name):
    with pytest.raises(BenchError, match=f"{name} comes with your system: install it there"):
        peers.install(peers.KINDS[name], peers_dir=tmp_path, log=tmp_path / "log")


def test_versions_are_the_installers_own(tmp_path):
    (tmp_path / "sglang-router/lib/python3.11/site-packages/sglang_router-0.3.2.dist-info").mkdir(
        parents=True
    )
    package = tmp_path / "portkey/node_modules/@portkey-ai/gateway/package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "1.15.2"}')

    assert peers.version(peers.KINDS["sglang-router"], peers_dir=tmp_path) == "0.3.2"
    assert peers.version(peers.KINDS["portkey"], peers_dir=tmp_path) == "1.15.2"
    assert peers.version(peers.KINDS["litellm"], peers_dir=tmp_path) == ""


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_proxy_passes_requests_on(tmp_path, stub, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    tmp_path.chmod(0o755)
    peer = peers.Peer(
        peers.KINDS[name],
        peers_dir=tmp_path,
        folder=tmp_path,
        upstream_port=stub.port,
        cores=Cores.of_this_machine(),
    )

    with peer.started() as target:
        status, body = call(port=target.port, method="GET", path="/v1/models")

    assert (status, b"bench-model" in body) == (200, True)

"""Ports for servers that a test starts in a moment."""

import random
import socket

# Below the range of which the kernel gives ports to connections: none of them takes it in between.
PORTS = range(16_000, 32_000)


def free_port():
    """A port of this machine on which nobody listens now, drawn at random: test processes rarely meet."""
    for _ in range(100):
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")

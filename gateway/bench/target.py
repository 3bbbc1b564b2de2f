"""What is measured: where it listens, how it is called, and which processes are its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.bench.connection import request_bytes
from gateway.bench.processes import Running

CHAT_PATH = "/v1/chat/completions"
PROMPT = "hello " * 40
# More than the longest stream has chunks.
OUTPUT_TOKENS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`running` is None where nothing stands between load and upstream.

    `keys` are sent in turn as bearer tokens, `headers` with each request. `ready_s`: how long it took
    from its start until it was ready. `servers`: databases and stores that it needs, not counted as its own.
    """

    name: str
    port: int
    model: str
    running: Running | None = None
    keys: Sequence[str] = field(default=("none",), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_streaming: bool = True
    ready_s: float = 0.0
    servers: Sequence[Running] = ()

    def chat(self, *, is_stream: bool = False, prompt: str = PROMPT) -> list[bytes]:
        """Whole requests, one for each key."""
        body = orjson.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": OUTPUT_TOKENS_MAX,
                **({"stream": True} if is_stream else {}),
            }
        )
        return [
            request_bytes(
                path=CHAT_PATH, body=body, headers={"authorization": f"Bearer {key}", **self.headers}
            )
            for key in self.keys
        ]

    def servers_cpu_s(self) -> float:
        return sum(server.cpu_s() for server in self.servers)

    def cpu_s(self) -> float:
        return self.running.cpu_s() if self.running is not None else 0.0

"""A stand-in for a vLLM server or a commercial provider, as a plain ASGI application."""

import asyncio
import hmac
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from clusters.demo.allowance import Allowance
from clusters.demo.answer import Answer, Stage
from clusters.demo.engine import Engine, Pace, QueueFullError, SequenceCancelledError
from clusters.demo.exchange import (
    BodyTooLargeError,
    ClientGoneError,
    Exchange,
    Receive,
    Scope,
    Send,
)
from clusters.demo.faults import (
    COMPLETION_FAULTS,
    HEALTH_FAULTS,
    METRICS_FAULTS,
    FaultQueue,
)
from clusters.demo.ledger import Entry, StandinLedger
from clusters.demo.replies import Envelope, model_body
from clusters.demo.vllm_metrics import METRICS_MEDIA, VllmMetrics
from clusters.demo.wire import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    EMBEDDINGS_PATH,
    CompletionRequest,
    EmbeddingRequest,
    RequestError,
    count_prompt,
    member,
    parse_object,
    parse_request,
    whole,
)

VERSION = "0.11.0+standin"
MODEL_PATHS = frozenset({CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH})
TOKENIZE_PATH = "/tokenize"
# The KV cache holds this many tokens for each slot.
KV_TOKENS_PER_SLOT = 4096

# (method, path and query, headers by lower-case name, body) -> why it is refused, or None
Verify = Callable[[str, str, dict[str, str], bytes], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StandinSettings:
    """How a stand-in behaves.

    `models` are the names it serves; `alias=root` serves `alias` and tells `root` in /v1/models.
    `tokens_per_s` 0 means no limit and no sleeping, whatever the other speeds say;
    `request_tokens_per_s` and `prefill_tokens_per_s` 0 mean no limit of that kind.
    All but /health and /standin/ ask for the key and pass `verify`.
    """

    name: str = "standin"
    models: tuple[str, ...] = ("llama-3-8b",)
    kind: Literal["vllm", "provider"] = "vllm"
    tokens_per_s: float = 0.0
    request_tokens_per_s: float = 0.0
    ttft_ms: float = 0.0
    prefill_tokens_per_s: float = 0.0
    running_max: int = 64
    waiting_max: int = 256
    context_tokens_max: int = 131_072
    api_key: str | None = field(default=None, repr=False)
    verify: Verify | None = None
    ledger_path: Path | None = None
    seed: int = 0


class Standin:
    """The application: one engine, one ledger, one queue of faults.

    A completion request goes this way:
    1. its received line is written to the ledger, before its body is read;
    2. key and signature are checked, the body is parsed, the model is looked up;
    3. a fault asked for takes over, or the answer takes a slot of the engine, or a place in its queue;
    4. the slot is given back, the second ledger line is written, and then the last bytes leave.
    """

    def __init__(self, settings: StandinSettings) -> None:
        self.settings = settings
        self.faults = FaultQueue()
        self.ledger = StandinLedger(path=settings.ledger_path)
        self._roots = dict(split_model(model) for model in settings.models)
        self._engine = Engine(
            Pace(
                tokens_per_s=settings.tokens_per_s,
                request_tokens_per_s=settings.request_tokens_per_s,
                prefill_tokens_per_s=settings.prefill_tokens_per_s,
                ttft_s=settings.ttft_ms / 1000,
                running_max=settings.running_max,
                waiting_max=settings.waiting_max,
            )
        )
        self._metrics = VllmMetrics(models=self._roots)
        self._stage = Stage(
            engine=self._engine,
            metrics=self._metrics,
            seed=settings.seed,
            context_tokens_max=settings.context_tokens_max,
        )
        self._allowance = Allowance()
        self._open: set[Exchange] = set()

    @property
    def records(self) -> deque[dict[str, Any]]:
        """The lines of ended completion requests, oldest first."""
        return self.ledger.records

    @property
    def received(self) -> deque[dict[str, Any]]:
        return self.ledger.received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope=scope, receive=receive, send=send)
        self._open.add(exchange)
        try:
            await self._converse(exchange)
        finally:
            self._open.discard(exchange)

    def stop(self) -> None:
        """Let go of every open request, so that the server can end."""
        for exchange in tuple(self._open):
            exchange.drop()

    async def _converse(self, exchange: Exchange) -> None:
        entry = None
        if exchange.path in MODEL_PATHS and exchange.method == "POST":
            entry = self.ledger.receive(path=exchange.path, headers=exchange.headers)
            exchange.on_end = entry.close
        watcher = None
        try:
            body = await exchange.read_body()
            # Kept in `watcher` until the answer is out; it never raises.
            watcher = asyncio.get_running_loop().create_task(exchange.watch())
            await self._respond(exchange=exchange, body=body, entry=entry)
        except BodyTooLargeError:
            await exchange.send_json({"detail": "Request Entity Too Large"}, status=413)
        except (ClientGoneError, SequenceCancelledError):
            if entry is not None:
                entry.outcome = "cancelled"
            if not exchange.is_gone:
                await exchange.hang_up()
        finally:
            if watcher is not None:
                watcher.cancel()
            if entry is not None:
                entry.close()

    async def _respond(self, *, exchange: Exchange, body: bytes, entry: Entry | None) -> None:
        try:
            if exchange.path.startswith("/standin/"):
                await self._control(exchange=exchange, body=body)
            elif exchange.path == "/health":
                await self._show_health(exchange)
            else:
                self._check_caller(exchange=exchange, body=body)
                if entry is not None:
                    await self._complete(exchange=exchange, body=body, entry=entry)
                elif exchange.path == TOKENIZE_PATH and self.settings.kind == "vllm":
                    limit = self.settings.context_tokens_max
                    await exchange.send_json(
                        {"count": count_prompt(body), "max_model_len": limit, "tokens": []}
                    )
                else:
                    await self._show(exchange)
        except RequestError as err:
            if entry is not None:
                entry.outcome = f"refused:{err.status}"
            await exchange.send_json(err.body, status=err.status)

    def _check_caller(self, *, exchange: Exchange, body: bytes) -> None:
        given = exchange.headers.get("authorization", "")
        expected = f"Bearer {self.settings.api_key}"
        reason = None
        if self.settings.api_key and not hmac.compare_digest(given.encode(), expected.encode()):
            reason = "Incorrect API key provided."
        elif self.settings.verify is not None:
            reason = self.settings.verify(exchange.method, exchange.path_and_query, exchange.headers, body)
        if reason is not None:
            raise RequestError(reason, status=401, code="invalid_api_key")

    async def _complete(self, *, exchange: Exchange, body: bytes, entry: Entry) -> None:
        request = parse_request(path=exchange.path, body=body)
        prompt_tokens = sum(prompt.tokens for prompt in request.prompts)
        entry.model, entry.is_stream = request.model, request.is_stream
        entry.prompt_tokens = prompt_tokens
        self._check_request(request)
        if self.settings.kind == "provider":
            now_s = asyncio.get_running_loop().time()
            exchange.extra_headers = {
                "x-request-id": f"req_{uuid.uuid4().hex}",
                **self._allowance.take(tokens=prompt_tokens, now_s=now_s),
            }
        answer = Answer(
            request=request,
            exchange=exchange,
            entry=entry,
            envelope=self._envelope(request=request, entry=entry),
            stage=self._stage,
        )
        try:
            await self._perform(answer=answer, entry=entry)
        except QueueFullError as err:
            message = "server busy, please try again. maximum pending requests exceeded"
            raise RequestError(message, status=503, kind="server_error", code="overloaded") from err

    def _check_request(self, request: CompletionRequest | EmbeddingRequest) -> None:
        if request.model not in self._roots:
            message = f"The model `{request.model}` does not exist."
            raise RequestError(message, status=404, code="model_not_found", param="model")
        limit = self.settings.context_tokens_max
        longest = max(prompt.tokens for prompt in request.prompts)
        if longest > limit:
            raise RequestError(
                f"This model's maximum context length is {limit} tokens. However, your prompt"
                f" has {longest} tokens.",
                code="context_length_exceeded",
            )
        fault = request.knobs.fault
        if fault is not None and fault not in COMPLETION_FAULTS:
            raise RequestError(f"There is no fault {fault!r}.", param="standin_fault")

    async def _perform(self, *, answer: Answer, entry: Entry) -> None:
        """Answer, or show the fault that the request or a fault from outside asks for."""
        kind = answer.request.knobs.fault
        pending = None if kind else self.faults.take(COMPLETION_FAULTS)
        if pending is not None:
            kind = pending.kind
            if pending.after_tokens is not None:
                answer.fault_after_tokens = pending.after_tokens
            if pending.retry_after_s is not None:
                answer.retry_after_s = pending.retry_after_s
        if kind is None:
            entry.outcome = "ok"
            await answer.give()
        else:
            entry.outcome = f"fault:{kind}"
            await COMPLETION_FAULTS[kind](answer)

    def _envelope(self, *, request: CompletionRequest | EmbeddingRequest, entry: Entry) -> Envelope:
        """As vLLM does, the answer's id repeats the caller's x-request-id, if there is one."""
        prefix = "chatcmpl" if request.path == CHAT_PATH else "cmpl"
        now = datetime.now(UTC)  # noqa: TID251 -- a server of its own: an edge
        return Envelope(
            id=f"{prefix}-{entry.request_id or uuid.uuid4().hex}",
            created=int(now.timestamp()),
            model=request.model,
            system_fingerprint="fp_standin" if self.settings.kind == "provider" else None,
        )

    async def _show(self, exchange: Exchange) -> None:
        """Everything that is read with GET."""
        path, is_vllm = exchange.path, self.settings.kind == "vllm"
        if exchange.method != "GET":
            await exchange.send_json({"detail": "Method Not Allowed"}, status=405)
        elif path == "/v1/models":
            data = [self._model(alias) for alias in self._roots]
            await exchange.send_json({"object": "list", "data": data})
        elif path.startswith("/v1/models/"):
            await self._show_model(exchange)
        elif path == "/metrics" and is_vllm:
            await self._show_metrics(exchange)
        elif path == "/version" and is_vllm:
            await exchange.send_json({"version": VERSION})
        else:
            await exchange.send_json({"detail": "Not Found"}, status=404)

    async def _show_model(self, exchange: Exchange) -> None:
        alias = exchange.path.removeprefix("/v1/models/")
        if alias not in self._roots:
            message = f"The model `{alias}` does not exist."
            raise RequestError(message, status=404, code="model_not_found", param="model")
        await exchange.send_json(self._model(alias))

    def _model(self, alias: str) -> dict[str, Any]:
        is_vllm = self.settings.kind == "vllm"
        return model_body(
            alias=alias,
            owner="vllm" if is_vllm else self.settings.name,
            root=self._roots[alias] if is_vllm else None,
            context_tokens_max=self.settings.context_tokens_max,
        )

    async def _show_health(self, exchange: Exchange) -> None:
        fault = self.faults.take(HEALTH_FAULTS)
        if fault is not None:
            await HEALTH_FAULTS[fault.kind](exchange)
        else:
            await exchange.send_whole(b"", media="text/plain")

    async def _show_metrics(self, exchange: Exchange) -> None:
        fault = self.faults.take(METRICS_FAULTS)
        if fault is not None:
            await METRICS_FAULTS[fault.kind](exchange)
            return
        capacity = self.settings.running_max * KV_TOKENS_PER_SLOT
        text = self._metrics.render(
            running=[sequence.model for sequence in self._engine.running],
            waiting=[sequence.model for sequence in self._engine.waiting],
            kv_cache_usage=min(self._engine.held_tokens / capacity, 1.0),
        )
        await exchange.send_whole(text, media=METRICS_MEDIA)

    async def _control(self, *, exchange: Exchange, body: bytes) -> None:
        """/standin/faults: POST adds a fault, DELETE clears all, GET lists those pending."""
        if exchange.path != "/standin/faults":
            await exchange.send_json({"detail": "Not Found"}, status=404)
            return
        if exchange.method == "POST":
            self._add_fault(parse_object(body))
        elif exchange.method == "DELETE":
            self.faults.clear()
        await exchange.send_json({"faults": self.faults.describe()})

    def _add_fault(self, members: dict[str, Any]) -> None:
        """`count` is 1 if left out; null means until cleared."""
        is_endless = "count" in members and members["count"] is None
        try:
            self.faults.add(
                kind=member(members, "kind", str, ""),
                count=None if is_endless else whole(members, "count", least=1) or 1,
                after_tokens=whole(members, "after_tokens"),
                retry_after_s=whole(members, "retry_after_s"),
            )
        except ValueError as err:
            raise RequestError(str(err)) from err


def split_model(model: str) -> tuple[str, str]:
    """`alias=root` into its halves; a bare name is its own root."""
    alias, _, root = model.partition("=")
    return alias, root or alias

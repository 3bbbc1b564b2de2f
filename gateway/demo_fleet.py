"""The demo fleet: the stand-ins that `up` runs, and their rows in the inventory and among the prices."""

import importlib.util
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction

from billing import prices
from clusters import catalogue
from gateway.supervisor import ChildSpec

HOST = "127.0.0.1"
ORIGIN = "demo fleet"
LLAMA = "llama-local"
TINY_MODEL = "tiny-bigram"
HMAC_SECRET_VARIABLE = "DEMO_HMAC_SECRET"  # noqa: S105 -- a variable's name
STOP_GRACE_S = 5
_OWN_ENDPOINT = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of a site; `rate` is (input, output) in micro-USD per million tokens, None: no price row."""

    name: str
    capabilities: tuple[str, ...] = ("chat", "completions")
    rate: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One stand-in: its row in the inventory, its models and its port where that is free."""

    name: str
    port: int
    models: tuple[Model, ...]
    values: Mapping[str, Any]

    @property
    def auth_type(self) -> str:
        return str(self.values["auth_type"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site with the port it listens on in this run and the secret it asks for."""

    site: Site
    port: int
    secret: str = field(repr=False)
    is_secret_new: bool

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"


_CLOUD_MODELS = (Model(name="llama-3-8b"), Model(name="demo-embed", capabilities=("embeddings",)))


def _own(
    *, auth_type: str, provider: str, region: str, cost_per_hour_nanousd: int, speed: int
) -> dict[str, Any]:
    return {
        "kind": "own",
        "backend": "vllm",
        "billing": "committed",
        "auth_type": auth_type,
        "provider": provider,
        "region": region,
        "cost_per_hour_nanousd": cost_per_hour_nanousd,
        "tokens_per_s": speed,
        "allow_private_network": True,
    }


SITES = (
    Site(
        name=LLAMA,
        port=9100,
        models=(Model(name=TINY_MODEL, capabilities=("chat", "completions", "embeddings")),),
        values={
            **_own(
                auth_type="bearer",
                provider="onprem",
                region="local",
                cost_per_hour_nanousd=50_000_000,
                speed=4000,
            ),
            "backend": "llamacpp",
            "in_flight_max": 16,
        },
    ),
    Site(
        name="aws-us-east-1",
        port=9101,
        models=_CLOUD_MODELS,
        values=_own(
            auth_type="hmac",
            provider="aws",
            region="us-east-1",
            cost_per_hour_nanousd=92_800_000,
            speed=900,
        ),
    ),
    Site(
        name="gcp-us-central1",
        port=9102,
        models=_CLOUD_MODELS,
        values=_own(
            auth_type="bearer",
            provider="gcp",
            region="us-central1",
            cost_per_hour_nanousd=95_000_000,
            speed=700,
        ),
    ),
    Site(
        name="azure-eastus",
        port=9103,
        models=_CLOUD_MODELS,
        values=_own(
            auth_type="none",
            provider="azure",
            region="eastus",
            cost_per_hour_nanousd=96_800_000,
            speed=500,
        ),
    ),
    Site(
        name="demo-provider",
        port=9104,
        models=(
            Model(name="demo-large", rate=(2_500_000, 10_000_000)),
            Model(name="llama-3-8b", rate=(200_000, 600_000)),
        ),
        values={
            "kind": "provider",
            "backend": "openai",
            "billing": "metered",
            "auth_type": "bearer",
            "provider": "demo",
            "default_model": "demo-large",
            "rpm_max": 3500,
            "tpm_max": 900_000,
            "allow_private_network": True,
        },
    ),
)
ROUTES = {"fast": {"candidates": ["llama-3-8b", TINY_MODEL], "fallbacks": ["demo-large"]}}


def plan_fleet(*, data_dir: Path) -> tuple[Member, ...]:
    """Give each site a port and its secret. Without xllamacpp installed the real llama.cpp is left out.

    The fleet's own copy of the secrets is a file in the data folder: the inventory's copy is for the
    gateway alone and only opened to sign.
    """
    sites = [site for site in SITES if site.name != LLAMA or importlib.util.find_spec("xllamacpp")]
    path = data_dir / "demo-secrets.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    all_secrets = {site.name: kept.get(site.name) or secrets.token_urlsafe(24) for site in sites}
    if all_secrets.items() - kept.items():
        _write_private(path, text=json.dumps(kept | all_secrets, indent=1) + "\n")
    return tuple(
        Member(
            site=site,
            port=_free_port(site.port),
            secret=all_secrets[site.name],
            is_secret_new=site.name not in kept,
        )
        for site in sites
    )


def enter_fleet(members: tuple[Member, ...], *, now: datetime) -> tuple[Member, ...]:
    """Bring the inventory and the prices up to date; returns the members that shall run.

    A site is entered once. Later starts change its endpoint alone, when the port moved. What an
    operator edited stays, and what an operator deleted or pointed elsewhere is not run either.
    """
    with transaction.atomic():
        known = {cluster.name: cluster.values for cluster in catalogue.load_catalogue().clusters}
        names = {member.site.name for member in members}
        is_first = not known.keys() & names
        running = []
        for member in members:
            values = known.get(member.site.name)
            if values is None and is_first:
                _enter_site(member, now=now)
                running.append(member)
            elif values is not None and _OWN_ENDPOINT.fullmatch(str(values["endpoint"])):
                _update_site(member)
                running.append(member)
        if is_first:
            for model, route in ROUTES.items():
                catalogue.put_route(model=model, values=route)
    return tuple(running)


def child_of(member: Member, *, env: Mapping[str, str], data_dir: Path, stage: int) -> ChildSpec:
    """How to run a member."""
    site = member.site
    manage = Path(__file__).resolve().parent.parent / "manage.py"
    command = "demo_llama" if site.name == LLAMA else "demo_cluster"
    argv = [sys.executable, str(manage), command, "--host", HOST, "--port", str(member.port)]
    environment = dict(env)
    if site.name == LLAMA:
        argv += ["--model-path", str(data_dir / "demo" / f"{TINY_MODEL}.gguf")]
    else:
        argv += ["--name", site.name, "--models", ",".join(model.name for model in site.models)]
        argv += ["--kind", "provider" if site.values["kind"] == "provider" else "vllm"]
    if "tokens_per_s" in site.values and site.name != LLAMA:
        argv += ["--tokens-per-s", str(site.values["tokens_per_s"])]
    if site.auth_type == "bearer":
        argv += ["--api-key", member.secret]
    if site.auth_type == "hmac":
        argv += ["--hmac-secret-env", HMAC_SECRET_VARIABLE]
        environment[HMAC_SECRET_VARIABLE] = member.secret
    return ChildSpec(
        name=f"demo-{site.name.removeprefix('demo-')}",
        argv=tuple(argv),
        env=environment,
        stop_grace_s=STOP_GRACE_S,
        restart=True,
        stage=stage,
    )


def _enter_site(member: Member, *, now: datetime) -> None:
    site = member.site
    catalogue.put_cluster(name=site.name, values={**site.values, "endpoint": member.endpoint})
    _put_secret(member)
    for model in site.models:
        catalogue.put_deployment(
            cluster_name=site.name, model=model.name, values={"capabilities": list(model.capabilities)}
        )
        if model.rate is not None:
            input_rate, output_rate = model.rate
            prices.put_price(
                model=model.name,
                cluster_name=site.name,
                input_microusd_per_mtok=input_rate,
                output_microusd_per_mtok=output_rate,
                effective_at=now,
                source=ORIGIN,
            )


def _update_site(member: Member) -> None:
    catalogue.put_cluster(name=member.site.name, values={"endpoint": member.endpoint})
    if member.is_secret_new:
        _put_secret(member)


def _put_secret(member: Member) -> None:
    if member.site.auth_type != "none":
        catalogue.put_secret(
            cluster_name=member.site.name,
            purpose=member.site.auth_type,
            plaintext=member.secret,
            label=ORIGIN,
        )


def _free_port(preferred: int) -> int:
    """The preferred port, or another that is free; someone may still take it before the site listens."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 is always free")


def _write_private(path: Path, *, text: str) -> None:
    """Replace a file by one that only this user may read, at no moment half written."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    new.replace(path)

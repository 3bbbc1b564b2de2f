"""The first page: for everybody what this is and how to call it, for staff the state at a glance besides."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from gateway.glance import gateway_of, load_glance
from gateway.lifespan import Gateway

PLACEHOLDER_MODEL = "YOUR_MODEL"
STATUS_BADGES = {"Serving": "ok", "Degraded": "warn", "Draining": "warn", "Nothing to serve with": "bad"}


@require_safe
@never_cache
def show_landing(request: HttpRequest) -> HttpResponse:
    """Strangers see counts and an example; names of models, clusters and teams are for staff."""
    gateway = gateway_of(request)
    is_staff = request.user.is_active and request.user.is_staff
    status = "" if gateway is None else _status(gateway)
    context: dict[str, Any] = {
        "base_url": request.build_absolute_uri("/v1"),
        "model": _first_model(gateway) if is_staff else PLACEHOLDER_MODEL,
        "status": status,
        "status_badge": STATUS_BADGES.get(status, "muted"),
        "counts": () if gateway is None else _counts(gateway),
        "glance": None,
    }
    if is_staff:
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        context["glance"] = load_glance(gateway=gateway, now=now)
    return render(request, "gateway/landing.html", context)


def _status(gateway: Gateway) -> str:
    snapshot = gateway.keeper.snapshot
    pairs = [snapshot.count_healthy(kind=kind) for kind in ("own", "provider")]
    healthy, total = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if gateway.admission.is_draining:
        return "Draining"
    if healthy == 0:
        return "Nothing to serve with"
    return "Serving" if healthy == total else "Degraded"


def _counts(gateway: Gateway) -> tuple[str, ...]:
    texts = []
    for kind, name in (("own", "clusters"), ("provider", "providers")):
        healthy, total = gateway.keeper.snapshot.count_healthy(kind=kind)
        if total:
            texts.append(f"{healthy} of {total} {name}")
    return tuple(texts)


def _first_model(gateway: Gateway | None) -> str:
    """One that chats, as the example does, or whose capabilities nobody declared."""
    routes = {} if gateway is None else gateway.keeper.snapshot.fleet.routes
    known = ((model, {each.capabilities for each in plan.candidates}) for model, plan in routes.items())
    chatting = (model for model, kinds in known if any(not kind or "chat" in kind for kind in kinds))
    return next(chatting, PLACEHOLDER_MODEL)

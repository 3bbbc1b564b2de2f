"""Health for people, load balancers and Kubernetes, and the live page's frame."""

import asyncio
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from gateway import metrics
from gateway.authentication import authenticate, bearer_token
from gateway.errors import InvalidApiKeyError
from gateway.figures import as_document
from gateway.lifespan import Gateway, wall_clock


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """The seed's body; 503 while draining or with nothing that could answer.

    Staff and holders of a key see besides what each cluster's tokens cost now.
    """
    gateway = _gateway(request)
    snapshot = gateway.keeper.snapshot
    healthy_clusters, total_clusters = snapshot.count_healthy(kind="own")
    healthy_providers, total_providers = snapshot.count_healthy(kind="provider")
    if gateway.admission.is_draining:
        status = "draining"
    elif healthy_clusters + healthy_providers == 0:
        status = "unhealthy"
    else:
        is_whole = healthy_clusters == total_clusters and healthy_providers == total_providers
        status = "healthy" if is_whole else "degraded"
    body: dict[str, Any] = {
        "status": status,
        "healthy_clusters": healthy_clusters,
        "total_clusters": total_clusters,
        "healthy_providers": healthy_providers,
        "total_providers": total_providers,
        "timestamp": wall_clock().isoformat().replace("+00:00", "Z"),
    }
    if await _may_see_costs(request, gateway):
        figures = gateway.figures.figures()
        body["clusters"] = [as_document(figures[name]) for name in sorted(figures)]
    return JsonResponse(body, status=200 if status in {"healthy", "degraded"} else 503)


@require_safe
async def health_live(_request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "live"})


@require_safe
async def health_ready(request: HttpRequest) -> HttpResponse:
    """The process takes requests: it has a snapshot, is not draining, and the ledger commits.

    The revisions say up to which change of clusters and routes, and of keys and prices, it knows them.
    """
    gateway = _gateway(request)
    snapshot = gateway.keeper.snapshot
    is_ready = not gateway.admission.is_draining and gateway.ledger.is_available
    body = {
        "status": "ready" if is_ready else "not ready",
        "inventory_revision": snapshot.inventory_revision,
        "billing_revision": snapshot.billing_revision,
    }
    return JsonResponse(body, status=200 if is_ready else 503)


@require_safe
async def show_metrics(_request: HttpRequest) -> HttpResponse:
    """Of all processes that serve this port; the others' counters are a second old at most."""
    metrics.tell_tallies()
    text = await asyncio.to_thread(metrics.exposition)
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


@require_safe
@staff_member_required
def show_live(request: HttpRequest) -> HttpResponse:
    """The frame of the live page; its websocket brings the rest."""
    return render(request, "gateway/live.html")


async def _may_see_costs(request: HttpRequest, gateway: Gateway) -> bool:
    headers = request.scope["headers"] if isinstance(request, ASGIRequest) else []
    if bearer_token(headers):
        try:
            authenticate(headers=headers, principals=gateway.keeper.snapshot.principals, now=wall_clock())
        except InvalidApiKeyError:
            return False
        return True
    user = await request.auser()
    return bool(user.is_active and user.is_staff)


def _gateway(request: HttpRequest) -> Gateway:
    assert isinstance(request, ASGIRequest), "served by gateway.asgi"
    gateway: Gateway = request.scope["gateway"]
    return gateway

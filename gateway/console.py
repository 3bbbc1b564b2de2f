"""The admin site: Django's, under Tollgate's name, its first page with the state at a glance."""

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils import timezone

from gateway.glance import gateway_of, load_glance

# What is worked with most comes first; what is not named here follows by name.
APP_ORDER = ("clusters", "billing", "auth")


class TollgateAdminSite(AdminSite):
    site_title = "Tollgate"
    site_header = "Tollgate"
    index_title = "Console"

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The list of everything that can be administered, below the state at a glance."""
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        glance = load_glance(gateway=gateway_of(request), now=now)
        return super().index(request, {"glance": glance, **(extra_context or {})})

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """The inventory first, then the books, then the people."""
        apps = super().get_app_list(request, app_label)
        return sorted(apps, key=_place)


def _place(app: dict[str, Any]) -> int:
    label = app["app_label"]
    return APP_ORDER.index(label) if label in APP_ORDER else len(APP_ORDER)

"""The base of the admin's pages that write: through the package's functions, refusals told on the page."""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseRedirect
from django.utils import timezone

from billing import keys, prices
from billing.records import RecordError


def admin_now() -> datetime:
    return timezone.now()  # noqa: TID251 -- the admin is an edge


class DoorAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for mypy
    """Writes through billing.keys and billing.prices; what they refuse becomes a message on the page."""

    show_facets = admin.ShowFacets.NEVER

    def formfield_for_foreignkey(self, *args: Any, **kwargs: Any) -> Any:
        field = super().formfield_for_foreignkey(*args, **kwargs)
        if field is not None:
            # Names are unique here; the id in a row's text is for logs.
            setattr(field, "label_from_instance", attrgetter("name"))  # noqa: B010 -- mypy: it is a method
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        keys.save_record(record=obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        keys.delete_records(records=[obj])

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Rows that the ledger knows stay, so there is nothing to delete in bulk.
        actions = super().get_actions(request)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._refusals_shown(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._refusals_shown(request, super().delete_view, *args, **kwargs)

    def _refusals_shown(
        self, request: HttpRequest, view: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return view(request, *args, **kwargs)
        except (RecordError, prices.PriceRecordError) as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)

"""Pages of the admin's long lists by key: each begins where the one before ended, and nothing is counted."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Field, Model, Q, QuerySet
from django.db.models.expressions import Combinable
from django.http import HttpRequest

SEPARATOR = "~"
CURSOR_CHARACTERS_MAX = 300


class KeysetChangeList(ChangeList):
    """A list in one order, newest first, whose next page costs as much as the first.

    `p` holds the last row of the page before instead of a number.
    """

    # For the template: there are no page numbers to show.
    is_keyset = True
    older_url = ""
    newest_url = ""

    @property
    def keyset(self) -> tuple[str, ...]:
        assert isinstance(self.model_admin, KeysetAdmin)
        return self.model_admin.keyset

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str | Combinable]:
        """By the key only, whatever the address asks for: another order would sort the whole table."""
        return [f"-{name}" for name in self.keyset]

    def get_results(self, request: HttpRequest) -> None:
        rows: QuerySet[Any] = self.queryset
        cursor = _cursor_values(self.model, names=self.keyset, text=request.GET.get(PAGE_VAR, ""))
        if cursor is not None:
            rows = rows.filter(_older_than(cursor))
            self.newest_url = self.get_query_string()
        found = list(rows[: self.list_per_page + 1])
        self.result_list = found[: self.list_per_page]
        if len(found) > self.list_per_page:
            text = _cursor_text(self.result_list[-1], names=self.keyset)
            self.older_url = self.get_query_string({PAGE_VAR: text})
        self.result_count = len(self.result_list)
        # Equal, so that the search form names no count: there may be more.
        self.full_result_count = self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = False
        self.can_show_all = False
        self.multi_page = False
        self.paginator = Paginator(self.result_list, self.list_per_page)


class KeysetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for mypy
    """Lists by `keyset`: names of fields with an index over them, the last of which is unique."""

    keyset: tuple[str, ...] = ("pk",)
    # A count for each filter would read the whole table.
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeysetChangeList


def _older_than(cursor: dict[str, Any]) -> Q:
    """The rows after this one, by one field or two; the first is bounded alone, for its index."""
    if len(cursor) == 1:
        ((name, value),) = cursor.items()
        return Q(**{f"{name}__lt": value})
    (name, value), (tie, tie_value) = cursor.items()
    before = Q(**{f"{name}__lt": value}) | Q(**{name: value, f"{tie}__lt": tie_value})
    return Q(**{f"{name}__lte": value}) & before


def _cursor_text(row: Any, *, names: tuple[str, ...]) -> str:
    values = [getattr(row, name) for name in names]
    return SEPARATOR.join(
        value.isoformat() if isinstance(value, datetime) else str(value) for value in values
    )


def _cursor_values(model: type[Model], *, names: tuple[str, ...], text: str) -> dict[str, Any] | None:
    """None where the text is no place in this list: then it begins at its beginning."""
    parts = text.split(SEPARATOR, maxsplit=len(names) - 1)
    if not text.isprintable() or len(text) > CURSOR_CHARACTERS_MAX or len(parts) != len(names):
        return None
    fields: list[Field[Any, Any]] = [
        model._meta.pk if name == "pk" else model._meta.get_field(name)  # type: ignore[misc]  # no relations here
        for name in names
    ]
    try:
        values = [field.to_python(part) for field, part in zip(fields, parts, strict=True)]
    except ValidationError:
        return None
    return None if not all(values) else dict(zip(names, values, strict=True))

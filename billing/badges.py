"""Small coloured labels that say a row's state at a glance in the admin's lists."""

from django.utils.html import format_html
from django.utils.safestring import SafeString

KINDS = frozenset({"ok", "warn", "bad", "muted"})


def badge(*, kind: str, text: str) -> SafeString:
    assert kind in KINDS
    return format_html('<span class="badge badge-{}">{}</span>', kind, text)

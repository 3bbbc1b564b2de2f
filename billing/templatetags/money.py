"""Template filters for amounts of money and counts of tokens."""

from django import template

from billing.amounts import rate_text, rounded_usd_text, usd_text

register = template.Library()

COUNT_SHOWN_MAX = 10**9


@register.filter
def usd(nanousd: int) -> str:
    return usd_text(nanousd)


@register.filter
def usd_rounded(nanousd: int) -> str:
    return rounded_usd_text(nanousd)


@register.filter
def usd_per_mtok(microusd_per_mtok: int) -> str:
    return rate_text(microusd_per_mtok)


@register.filter
def tokens(count: int) -> str:
    return f"{count:,}"


@register.filter
def count_rounded(count: int) -> str:
    """For headlines: whole up to nine digits, then 2.89 B."""
    return f"{count:,}" if count < COUNT_SHOWN_MAX else f"{count / 1_000_000_000:,.2f} B"

"""Template filters for amounts of money and counts of tokens."""

from django import template

from billing.amounts import rate_text, rounded_usd_text, usd_text

register = template.Library()


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

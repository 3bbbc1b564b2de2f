"""Writes and reads amounts of money for people: exact in both directions, never through a float."""

from decimal import ROUND_CEILING, Context, Decimal, Inexact, InvalidOperation, Overflow

from routing.money import NANOUSD_MAX, NANOUSD_PER_USD

MICROUSD_PER_USD = 1_000_000
USD_DECIMALS = 9
RATE_DECIMALS = 6
CENT_DECIMALS = 2
# One USD for a single token: beyond it, somebody mistook the unit.
RATE_MICROUSD_PER_MTOK_MAX = 10**12
# Nothing is rounded on the way in: what does not fit is refused.
_EXACT = Context(prec=50, traps=[InvalidOperation, Inexact, Overflow])


class AmountError(ValueError):
    """A text that is no amount of money; the message says why."""


def usd_text(nanousd: int) -> str:
    """The whole amount, to the last nano-USD, with at least cents: $1,234.50, $0.000012."""
    return _text(amount=nanousd, per_usd=NANOUSD_PER_USD, decimals=USD_DECIMALS)


def rate_text(microusd_per_mtok: int) -> str:
    """A rate in USD per million tokens: $0.15, $0.01875."""
    return _text(amount=microusd_per_mtok, per_usd=MICROUSD_PER_USD, decimals=RATE_DECIMALS)


def rounded_usd_text(nanousd: int) -> str:
    """For headlines and axes: cents from ten cents up, below it the first two digits that count."""
    decimals = CENT_DECIMALS
    while decimals < USD_DECIMALS and 0 < abs(nanousd) < NANOUSD_PER_USD // 10 ** (decimals - 1):
        decimals += 1
    unit = 10 ** (USD_DECIMALS - decimals)
    rounded = (abs(nanousd) + unit // 2) // unit * unit
    return usd_text(rounded if nanousd >= 0 else -rounded)


def plain_usd_text(nanousd: int) -> str:
    """The amount for machines: no sign of the currency, no separators, no trailing zeros."""
    whole = Decimal(nanousd).scaleb(-USD_DECIMALS)
    return f"{whole.normalize():f}" if nanousd else "0"


def plain_rate_text(microusd_per_mtok: int) -> str:
    """USD per million tokens for machines and form fields."""
    return plain_usd_text(microusd_per_mtok * (NANOUSD_PER_USD // MICROUSD_PER_USD))


def nanousd_from_usd(usd: str | Decimal) -> int:
    """Exact; raises AmountError below a nano-USD, below zero or beyond what the ledger holds."""
    return _whole(usd, decimals=USD_DECIMALS, unit_max=NANOUSD_MAX)


def rate_from_usd(usd_per_mtok: str | Decimal) -> int:
    """USD per million tokens as micro-USD per million tokens, exact; raises AmountError."""
    return _whole(usd_per_mtok, decimals=RATE_DECIMALS, unit_max=RATE_MICROUSD_PER_MTOK_MAX)


def rate_rounded_up(usd_per_mtok: Decimal) -> int:
    """USD per million tokens as micro-USD per million tokens; what is finer is rounded up."""
    return int(usd_per_mtok.scaleb(RATE_DECIMALS).to_integral_value(rounding=ROUND_CEILING))


def _whole(value: str | Decimal, *, decimals: int, unit_max: int) -> int:
    try:
        amount = _EXACT.scaleb(_EXACT.create_decimal(value), decimals)
    except ArithmeticError as error:
        raise AmountError(f"{value} is not an amount: write a number such as 12.50") from error
    if not amount.is_finite() or not 0 <= amount <= unit_max:
        raise AmountError(f"{value} is not between 0 and {unit_max // 10**decimals:,} USD")
    if amount != amount.to_integral_value():
        raise AmountError(f"{value} has more than {decimals} decimals")
    return int(amount)


def _text(*, amount: int, per_usd: int, decimals: int) -> str:
    dollars, rest = divmod(abs(amount), per_usd)
    fraction = f"{rest:0{decimals}d}".rstrip("0").ljust(CENT_DECIMALS, "0")
    return f"{'-' if amount < 0 else ''}${dollars:,}.{fraction}"

"""Money as integers: nano-USD amounts, and the one rounding."""

NANOUSD_PER_USD = 1_000_000_000
PICOUSD_PER_NANOUSD = 1_000
NANOUSD_MAX = 2**62  # what a signed 64-bit column holds, with room to add


def nanousd_from_picousd(picousd: int) -> int:
    """Round up to whole nano-USD: the one place where money is rounded."""
    assert picousd >= 0
    return -(-picousd // PICOUSD_PER_NANOUSD)

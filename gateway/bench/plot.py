"""Draws what was measured as SVG: for each figure that is compared a bar a target, on a logarithmic scale."""

from collections.abc import Sequence
from itertools import groupby
from math import log10
from xml.sax.saxutils import escape

from gateway.bench.record import NAME, Figure, Record, number

WIDTH, LEFT, RIGHT, TOP, ROW, GAP = 960, 220, 150, 48, 24, 44
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430}.muted{fill:#5b6675}.ours{fill:#3350d4}"
    ".other{fill:#aab4c4}.spread{stroke:#1c2430;stroke-width:1.5}.title{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#e6eaf2}.muted{fill:#9aa4b5}.ours{fill:#8ba0ff}"
    ".other{fill:#4a5568}.spread{stroke:#e6eaf2}.back{fill:#11151c}}"
)


def plot_svg(record: Record) -> str:
    """A block a figure, the least of its rounds as the bar, the line from least to most."""
    figures = [figure for figure in record.figures() if figure.is_cost and figure.most > 0]
    ordered = sorted(figures, key=lambda figure: (figure.part, figure.name))
    blocks = [list(block) for _, block in groupby(ordered, key=lambda figure: (figure.part, figure.name))]
    height = TOP + sum(GAP + ROW * len(block) for block in blocks) + 16
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="Figures of the benchmark by target"><style>{STYLE}</style>'
        ),
        f'<rect class="back" width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="16" y="24">Less is better; logarithmic; the line is the spread over the rounds</text>',
    ]
    y = float(TOP)
    for block in blocks:
        parts += _block(block, top=y)
        y += GAP + ROW * len(block)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _block(block: Sequence[Figure], *, top: float) -> list[str]:
    first = block[0]
    positive = [value for figure in block for value in figure.values if value > 0]
    low, high = min(positive) / 2, max(positive)
    title = escape(f"{first.part}: {first.name}, {first.unit}")
    parts = [f'<text class="title" x="16" y="{top + 16:.1f}">{title}</text>']
    for row, figure in enumerate(sorted(block, key=lambda figure: figure.least)):
        y = top + 28 + ROW * row
        end, least, most = (_x(value, low, high) for value in (figure.least, figure.least, figure.most))
        kind = "ours" if figure.target == NAME else "other"
        middle = y + 8
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 12:.1f}" text-anchor="end">{escape(figure.target)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y:.1f}" width="{end - LEFT:.1f}" height="16" rx="2"/>',
            f'<line class="spread" x1="{least:.1f}" y1="{middle:.1f}" x2="{most:.1f}" y2="{middle:.1f}"/>',
            f'<text class="muted" x="{most + 8:.1f}" y="{y + 12:.1f}">{number(figure.least)}</text>',
        ]
    return parts


def _x(value: float, low: float, high: float) -> float:
    share = log10(max(value, low) / low) / log10(high / low)
    return LEFT + share * (WIDTH - LEFT - RIGHT)

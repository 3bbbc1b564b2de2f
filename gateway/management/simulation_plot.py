"""Draws a benchmark as SVG: each policy's total over the LP bound in each scenario, one row a policy."""

from collections.abc import Mapping, Sequence
from math import log
from xml.sax.saxutils import escape

from routing.simulate import Result

WIDTH, LEFT, RIGHT, TOP, ROW = 960, 220, 90, 56, 26
# Ratios beyond that are drawn at the edge; their number is written beside.
RATIO_MAX = 4.0
TICKS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
TARGET_RATIO = 1.10
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430}.muted{fill:#5b6675}.line{stroke:#d5dae2}"
    ".target{stroke:#2f7d4f;stroke-dasharray:4 3}.ok{fill:#3350d4}"
    ".miss{fill:none;stroke:#b3261e;stroke-width:1.5}.mean{stroke:#1c2430;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6eaf2}.muted{fill:#9aa4b5}.line{stroke:#333c4a}"
    ".ok{fill:#8ba0ff}.miss{stroke:#ff8a80}.mean{stroke:#e6eaf2}.back{fill:#11151c}}"
)


def plot_svg(results: Sequence[Result], *, geomeans: Mapping[str, float], slo_percent_min: float) -> str:
    """The policies from best to worst; a scenario that missed the objective's share is a ring."""
    policies = sorted(geomeans, key=lambda policy: geomeans[policy])
    height = TOP + ROW * len(policies) + 40
    bottom = TOP + ROW * len(policies)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="Total cost over the LP bound by policy"><style>{STYLE}</style>'
        ),
        f'<rect class="back" width="{WIDTH}" height="{height}" fill="#fff"/>',
        (
            '<text x="16" y="24">Total cost over the LP bound: a dot is a scenario, the bar their '
            "geometric mean</text>"
        ),
        (
            f'<text class="muted" x="16" y="42">A ring: less than {slo_percent_min:g} % of the requests '
            "met the latency objective</text>"
        ),
    ]
    for tick in TICKS:
        x = _x(tick)
        parts.append(f'<line class="line" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(
            f'<text class="muted" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
    target = _x(TARGET_RATIO)
    parts.append(f'<line class="target" x1="{target:.1f}" y1="{TOP}" x2="{target:.1f}" y2="{bottom}"/>')
    for row, policy in enumerate(policies):
        y = TOP + ROW * row + ROW / 2
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(policy)}</text>')
        for result in results:
            if result.policy == policy and result.lp_ratio is not None:
                kind = "ok" if result.slo_percent >= slo_percent_min else "miss"
                title = f"{result.scenario}: {result.lp_ratio:.3f} x LP, {result.slo_percent:.2f} % in time"
                parts.append(
                    f'<circle class="{kind}" cx="{_x(result.lp_ratio):.1f}" cy="{y:.1f}" r="4">'
                    f"<title>{escape(title)}</title></circle>"
                )
        x = _x(geomeans[policy])
        parts.append(f'<line class="mean" x1="{x:.1f}" y1="{y - 9:.1f}" x2="{x:.1f}" y2="{y + 9:.1f}"/>')
        parts.append(
            f'<text class="muted" x="{WIDTH - RIGHT + 16}" y="{y + 4:.1f}">{geomeans[policy]:.3f}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(ratio: float) -> float:
    """Logarithmic, so that twice as dear is as far wherever it begins."""
    share = log(min(max(ratio, 1.0), RATIO_MAX)) / log(RATIO_MAX)
    return LEFT + share * (WIDTH - LEFT - RIGHT)

"""What was measured: figures by part and target, a value a round, and the ratios between targets."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from gateway.bench.load import LoadError, Sample
from gateway.bench.processes import BenchError

NAME = "tollgate"
DIRECT = "direct"
OURS = (NAME, DIRECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Values of one round each, in `unit`. `is_cost`: less is better, and others are set against ours."""

    part: str
    target: str
    name: str
    unit: str
    values: tuple[float, ...]
    is_cost: bool

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return float(median(self.values))

    @property
    def most(self) -> float:
        return max(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times ours a target's figure was, round by round."""

    part: str
    target: str
    name: str
    values: tuple[float, ...]


class Record:
    """Grows while the parts run; each entry is said at once by `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._values: dict[tuple[str, str, str, str, bool], list[float]] = {}
        self.notes: list[str] = []

    def begin(self, part: str, words: str) -> None:
        self._say(f"\n{part}: {words}")

    def add(
        self, *, part: str, target: str, figures: dict[tuple[str, str], float], costs: tuple[str, ...] = ()
    ) -> None:
        """Figures of one round by (name, unit); those named in `costs` are compared."""
        for (name, unit), value in figures.items():
            self._values.setdefault((part, target, name, unit, name in costs), []).append(value)
        told = "  ".join(f"{name} {number(value)} {unit}".rstrip() for (name, unit), value in figures.items())
        self._say(f"  {target:24} {told}")

    def note(self, words: str) -> None:
        """What a reader must know besides: who was left out, and why."""
        if words not in self.notes:
            self.notes.append(words)
            self._say(f"  {words}")

    @contextlib.contextmanager
    def forgiving(self, part: str, target: str) -> Iterator[None]:
        """Go on without a peer's figures where it fails; what is ours must not."""
        try:
            yield
        except (BenchError, LoadError) as error:
            if target in OURS:
                raise
            self.note(f"{part}: {target} was not measured: {str(error).partition(chr(10))[0]}")

    def note_failures(self, part: str, target: str, sample: Sample) -> None:
        """Say which answers were none, if any."""
        counts = sample.statuses.items()
        failed = [f"{count} x {status or 'no answer'}" for status, count in counts if status != 200]
        if failed:
            self.note(f"{part}: {target} failed {sample.failed_count} requests ({', '.join(failed)})")

    def figures(self) -> list[Figure]:
        return [
            Figure(part=part, target=target, name=name, unit=unit, is_cost=is_cost, values=tuple(values))
            for (part, target, name, unit, is_cost), values in self._values.items()
        ]

    def ratios(self) -> list[Ratio]:
        """Of the figures that are costs, others' to ours of the same round."""
        figures = [figure for figure in self.figures() if figure.is_cost]
        ours = {(figure.part, figure.name): figure.values for figure in figures if figure.target == NAME}
        ratios = []
        for figure in figures:
            own = ours.get((figure.part, figure.name), ())
            # Where a round is missing, nobody knows which.
            if figure.target == NAME or len(own) != len(figure.values) or min(own) <= 0:
                continue
            values = tuple(other / mine for other, mine in zip(figure.values, own, strict=True))
            ratios.append(Ratio(part=figure.part, target=figure.target, name=figure.name, values=values))
        return ratios


def number(value: float) -> str:
    """Three digits that count, and no more of whole numbers."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

"""Figures as tables: plain text for people, Markdown for a page, a document for programs."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from gateway.bench.record import NAME, Figure, Record, number


def text(record: Record) -> str:
    """A table for each part: least to most over the rounds."""
    return "\n\n".join(_aligned([[part, *columns], *rows]) for part, columns, rows in _tables(record))


def markdown(record: Record, *, machine: Mapping[str, str], versions: Mapping[str, str], date: str) -> str:
    """One table for a page, of what is compared, with the machine: it is put there as it is."""
    named = ", ".join(f"{name} {version}".rstrip() for name, version in versions.items())
    measured = (
        f"Measured on {date}: {machine['cpu']}, {machine['cores']} cores, {machine['memory']}, "
        f"Linux {machine['kernel']}, Python {machine['python']}, commit {machine['commit']}; "
        f"{machine['pinning']}."
    )
    lines = [measured, f"Beside it: {named}." if named else "Without peers.", "", *_summary(record), ""]
    return "\n".join([*lines, *(f"- {note}" for note in record.notes)]).rstrip() + "\n"


def _summary(record: Record) -> list[str]:
    """A row a target: the least round of each cost (what is added, the median), and how many times ours."""
    figures = {
        (figure.part, figure.name, figure.target): figure for figure in record.figures() if figure.is_cost
    }
    ratios = {(ratio.part, ratio.name, ratio.target): ratio.values for ratio in record.ratios()}
    columns = list(dict.fromkeys((part, name) for part, name, _target in figures))
    units = {(part, name): figure.unit for (part, name, _target), figure in figures.items()}
    lines = [
        "| | " + " | ".join(f"{part}: {name}, {units[part, name]}" for part, name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for target in dict.fromkeys(target for _part, _name, target in figures):
        cells = []
        for part, name in columns:
            figure, values = figures.get((part, name, target)), ratios.get((part, name, target), ())
            times = f" ({number(median(values))} x)" if values else ""
            cells.append(_single(figure) + times)
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return lines


def document(record: Record) -> dict[str, Any]:
    """All values, for programs."""
    figures = [
        {
            "part": figure.part,
            "target": figure.target,
            "name": figure.name,
            "unit": figure.unit,
            "least": figure.least,
            "median": figure.median,
            "most": figure.most,
            "values": list(figure.values),
        }
        for figure in record.figures()
    ]
    ratios = [
        {
            "part": ratio.part,
            "target": ratio.target,
            "name": ratio.name,
            "least": min(ratio.values),
            "most": max(ratio.values),
            "values": list(ratio.values),
        }
        for ratio in record.ratios()
    ]
    return {"figures": figures, "ratios_to_tollgate": ratios, "notes": record.notes}


def _tables(record: Record) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """By part: its name, its columns, and a row a target; a ratio follows the figure it is of."""
    figures = record.figures()
    ratios = {(ratio.part, ratio.target, ratio.name): ratio.values for ratio in record.ratios()}
    for part in dict.fromkeys(figure.part for figure in figures):
        ours = [figure for figure in figures if figure.part == part]
        ordered = sorted(ours, key=lambda figure: not figure.is_cost)
        names = list(dict.fromkeys((figure.name, figure.unit) for figure in ordered))
        compared = {name for of, _target, name in ratios if of == part}
        columns = []
        for name, unit in names:
            columns.append(f"{name}, {unit}".rstrip(", "))
            if name in compared:
                columns.append(f"x {NAME}")
        rows = []
        for target in dict.fromkeys(figure.target for figure in ours):
            found = {(figure.name, figure.unit): figure for figure in ours if figure.target == target}
            row = [target]
            for key in names:
                row.append(_range(found.get(key)))
                if key[0] in compared:
                    row.append(_spread(ratios.get((part, target, key[0]), ())))
            rows.append(row)
        yield part, columns, rows


def _range(figure: Figure | None) -> str:
    return _spread(figure.values) if figure is not None else ""


def _single(figure: Figure | None) -> str:
    if figure is None:
        return ""
    # A difference of two noisy times has no best round.
    return number(figure.median if "added" in figure.name else figure.least)


def _spread(values: Sequence[float]) -> str:
    """Least to most; one number where they read alike."""
    if not values:
        return ""
    least, most = number(min(values)), number(max(values))
    return least if least == most else f"{least}-{most}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)

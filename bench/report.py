"""The results of a run and their report: measures, comparisons with their budgets, tables, Markdown, JSON. Pure.

A time alone is no verdict, for machines differ: budgets are ratios to a yardstick that ran beside ours, and sizes in
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

SMALL = 10.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One number and its unit; `low` and `high` hold half of the samples between them, None for a single one."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


class Verdict(StrEnum):
    """What a comparison says of its budget."""

    MET = "met"
    MISSED = "missed"
    UNCLEAR = "unclear"
    """The budget lies within the spread of the samples: another run may say the opposite."""
    NONE = ""
    """There is no budget."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One number that should be at most, or at least, its budget; without a budget it informs.

    `low` and `high` hold half of the samples between them, None where there is a single one.
    """

    name: str
    value: float
    unit: str = "x"
    budget: float | None = None
    at_most: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Compare the value, and its spread, with the budget."""
        if self.budget is None:
            return Verdict.NONE
        if self.low is not None and self.high is not None and self.low < self.budget < self.high:
            return Verdict.UNCLEAR
        kept = self.value <= self.budget if self.at_most else self.value >= self.budget
        return Verdict.MET if kept else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of its own form: the first column names the row, the others hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of the run found: measures, or a grid in their place.

    `note` says what was run, `raw` holds what may be looked at again.
    """

    title: str
    note: str
    measures: tuple[Measure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    grid: Grid | None = None
    raw: dict[str, Any] = field(default_factory=dict)


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the smallest sample that at least `part` (0 to 1) of all do not exceed; ValueError of none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * round(part * 1000) // 1000) - 1))]


def measure(name: str, samples: Sequence[float], unit: str) -> Measure:
    """Return the median of samples, with the quarters' bounds."""
    if len(samples) == 1:
        return Measure(name, samples[0], unit)
    return Measure(name, median(samples), unit, percentile(samples, 0.25), percentile(samples, 0.75))


def ratios(ours: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """Return each sample divided by the yardstick's of the same round; ValueError when their numbers differ."""
    return [a / b for a, b in zip(ours, yardstick, strict=True)]


def ratio(rounds: dict[str, list[float]], name: str, yardstick: str) -> float:
    """Return the median over the rounds of one contestant's number divided by another's of the same round."""
    return median(ratios(rounds[name], rounds[yardstick]))


def differences(more: Sequence[float], less: Sequence[float], parts: int = 1) -> list[float]:
    """Return each sample minus the other's of the same round, divided among `parts`; ValueError as `ratios`."""
    return [(a - b) / parts for a, b in zip(more, less, strict=True)]


def compared(
    name: str, samples: Sequence[float], budget: float | None = None, *, at_most: bool = True, unit: str = "x"
) -> Comparison:
    """Return the comparison of samples, by default of a ratio, with a budget: median, and bounds of half of them."""
    one = measure(name, samples, unit)
    return Comparison(name, one.value, unit, budget, at_most, one.low, one.high)


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    size = abs(value)
    if size >= SMALL * 10 or not value:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= SMALL else f"{value:.2f}"


def spread(samples: Sequence[float]) -> str:
    """Return a median with the bounds of half of the samples."""
    one = measure("", samples, "")
    bounds = "" if one.low is None or one.high is None else f" ({number(one.low)} to {number(one.high)})"
    return f"{number(one.value)}{bounds}"


def budget(comparison: Comparison) -> str:
    """Return a budget in words."""
    if comparison.budget is None:
        return ""
    return f"{'≤' if comparison.at_most else '≥'} {number(comparison.budget)} {comparison.unit}"


def measure_cells(one: Measure) -> tuple[str, str, str]:
    """Return a measure's name, value and spread as text."""
    spread = "" if one.low is None or one.high is None else f"{number(one.low)} to {number(one.high)}"
    return one.name, f"{number(one.value)} {one.unit}", spread


def comparison_cells(one: Comparison) -> tuple[str, str, str, str]:
    """Return a comparison's name, value, budget and verdict as text."""
    return one.name, f"{number(one.value)} {one.unit}", budget(one), one.verdict.value


def shown(section: Section) -> Grid:
    """Return a section's table: its own, or that of its measures."""
    rows = tuple(measure_cells(one) for one in section.measures)
    return section.grid or Grid(("", "median", "half of the samples"), rows)


def missed(sections: Iterable[Section]) -> list[Comparison]:
    """Return the comparisons that miss their budgets."""
    return [one for section in sections for one in section.comparisons if one.verdict is Verdict.MISSED]


def as_data(machine: dict[str, Any], sections: Sequence[Section]) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    found = []
    for section in sections:
        data = asdict(section)
        for plain, one in zip(data["comparisons"], section.comparisons, strict=True):
            plain["verdict"] = one.verdict.value
        found.append(data)
    return {"machine": machine, "sections": found, "missed": [one.name for one in missed(sections)]}


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def placed(document: str, block: str) -> str:
    """Put a block between the marks of a document, in place of the former one; without marks the block is all."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n\n{block}\n{end}{after}" if begin and end else block


def as_markdown(machine: dict[str, Any], sections: Sequence[Section]) -> str:
    """Return everything as Markdown: comparisons first, then what was measured."""
    lines = _markdown_table(
        ("what", "measured", "budget", ""),
        (comparison_cells(one) for section in sections for one in section.comparisons),
    )
    for section in sections:
        lines += [f"### {section.title}", "", section.note, ""]
        table = shown(section)
        lines += _markdown_table(table.columns, table.rows)
    lines += ["### The machine", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    return "\n".join(lines)

"""The bench's one table: each figure beside a reference that was measured in the same run, with the ratio."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]
COLUMNS = ("figure", "", "tilenode", "reference", "", "ratio", "limit", "remark")
SCHEMA = 2


@dataclass(frozen=True)
class Row:
    """One figure beside one reference, both in the same unit; `limit` is what the ratio must keep, where it is set."""

    figure: str
    value: float
    unit: str
    better: Better
    reference: str
    reference_value: float
    remark: str = ""
    limit: float | None = None

    @property
    def missed(self) -> bool:
        """Whether there is a limit and the ratio is on its wrong side."""
        if self.limit is None:
            return False
        ratio = self.ratio
        return ratio is None or (ratio < self.limit if self.better == "higher" else ratio > self.limit)

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of its reference; None where the reference is zero."""
        return self.value / self.reference_value if self.reference_value else None


@dataclass(frozen=True)
class Unmeasured:
    """A figure that could not be measured, and why."""

    figure: str
    reason: str


Result = Row | Unmeasured


def format_number(value: float) -> str:
    """The value with three significant digits and no exponent: `0.0421`, `3.14`, `256`, `1,080`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _cells(result: Result) -> tuple[str, ...]:
    if isinstance(result, Unmeasured):
        return (result.figure, "", "-", "-", "", "-", "", f"not measured: {result.reason}")
    return (
        result.figure,
        "↑" if result.better == "higher" else "↓",
        f"{format_number(result.value)} {result.unit}",
        result.reference,
        f"{format_number(result.reference_value)} {result.unit}",
        "-" if result.ratio is None else format_number(result.ratio),
        _limit(result),
        result.remark,
    )


def _limit(row: Row) -> str:
    if row.limit is None:
        return ""
    sign = "≥" if row.better == "higher" else "≤"
    return f"{sign} {format_number(row.limit)} {'MISSED' if row.missed else 'ok'}"


def format_table(results: Sequence[Result]) -> str:
    """The table as text, columns aligned; ↑ marks what should be high, ↓ what should be low."""
    rows = [COLUMNS, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    numbers = {2, 4, 5}
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def format_json(results: Sequence[Result], machine: dict[str, Any]) -> str:
    """The same table as one JSON object: `{"schema", "machine", "rows": […], "unmeasured": […]}`."""
    rows = [
        {**asdict(result), "ratio": result.ratio, "missed": result.missed}
        for result in results
        if isinstance(result, Row)
    ]
    missing = [asdict(result) for result in results if isinstance(result, Unmeasured)]
    return json.dumps({"schema": SCHEMA, "machine": machine, "rows": rows, "unmeasured": missing}, ensure_ascii=False)

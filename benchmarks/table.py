"""All benchmarks in one table of ratios: python benchmarks/table.py. Each compares two things timed in the same run."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """What was measured, and what it is held against, in the same unit."""

    name: str
    value: float
    unit: str
    against: str
    reference: float


def show(console: Console, rows: list[Row]) -> None:
    """Print the table, a line a row, however narrow what it is printed to says it is."""
    console.width = max(console.width, 120)
    table = Table(box=box.SIMPLE)
    for column, side in (
        ("what", "left"),
        ("measured", "right"),
        ("against", "left"),
        ("measured", "right"),
        ("ratio", "right"),
    ):
        table.add_column(column, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        value, reference = (f"{_number(number)} {row.unit}" for number in (row.value, row.reference))
        table.add_row(row.name, value, row.against, reference, f"{row.value / row.reference:.2f}")
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    """Everything; needs a bundle (make demo leaves one)."""
    import agent_latency
    import lock_step
    import mamujoco
    import training

    rows = [*training.measure(5), *mamujoco.measure("Ant-4x2", 40, 2.0, 4), *agent_latency.measure(None, 20_000)]
    show(Console(), [*rows, *lock_step.measure(None, 5000)])


if __name__ == "__main__":
    main()

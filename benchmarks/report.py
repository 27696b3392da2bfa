"""Results as a table, a JSON file and a picture."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from limits import Limits, describe_cpu
from matplotlib.figure import Figure
from sides import OURS
from workloads import Workload

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(slots=True)
class Row:
    """One workload with one number of threads.

    Attributes
    ----------
    workload, title : str
    threads : int
    seconds : dict of str to float
        Median by side.
    spread : dict of str to (float, float)
        First and third quartile by side.
    errors : dict of str to float
        By side: largest distance to the float64 reference, relative to the largest magnitude of
        the same output.
    floor : float
        Seconds below which no program can stay on this machine; 0 when nothing bounds it.
    """

    workload: str
    title: str
    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    floor: float = 0.0

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others."""
        peers = [side for side in self.seconds if side != OURS]
        return min(peers, key=self.seconds.__getitem__, default=None)

    @property
    def ratio(self) -> float:
        """How many times faster than the best peer we are; NaN without a peer or without us."""
        if OURS not in self.seconds or self.best_peer is None:
            return math.nan
        return self.seconds[self.best_peer] / self.seconds[OURS]

    @property
    def distance(self) -> float:
        """How many times slower than the floor we are; NaN when there is none."""
        if OURS not in self.seconds or not self.floor:
            return math.nan
        return self.seconds[OURS] / self.floor


def relative_error(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest distance of any output, relative to that output's largest magnitude.

    Raises
    ------
    ValueError
        If number or shape of the outputs differ.
    """
    worst = 0.0
    for output, reference in zip(outputs, expected, strict=True):
        if output.shape != reference.shape:
            raise ValueError(f"an output has shape {output.shape}, not {reference.shape}")
        distance = np.abs(output.astype(np.float64) - reference.astype(np.float64)).max()
        scale = np.abs(reference.astype(np.float64)).max()
        # Not ``max``, which would drop a NaN.
        worst = float(np.maximum(worst, distance / scale if scale else distance))
    return worst


def readable(seconds: float) -> str:
    """Return a time with three digits and a unit.

    Examples
    --------
    >>> readable(0.00123)
    '1.23 ms'
    """
    for factor, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns" if seconds else "-"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its first column is flush left."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speed_table(rows: Sequence[Row], sides: Sequence[str]) -> str:
    """Return the table of all rows."""
    def number(value: float, suffix: str = "") -> str:
        return "-" if math.isnan(value) else f"{value:.2f}{suffix}"

    header = ["workload", "threads", *sides, "best peer", "ratio", "floor", "ours / floor",
              "our error"]
    return markdown(header, (
        [row.title, str(row.threads),
         *(readable(row.seconds[side]) if side in row.seconds else "-" for side in sides),
         row.best_peer or "-", number(row.ratio), readable(row.floor), number(row.distance),
         f"{row.errors[OURS]:.1e}" if OURS in row.errors else "-"] for row in rows))


def workload_table(workloads: Sequence[Workload]) -> str:
    """Return what workloads cannot avoid doing."""
    return markdown(["workload", "name", "dtype", "MB", "GFLOP of products", "M exponentials"], (
        [w.title, w.name, w.dtype, *(f"{number:.3g}" for number in (
            w.cost.bytes / 1e6, w.cost.flops / 1e9, w.cost.exps / 1e6))] for w in workloads))


def limits_table(limits: Sequence[Limits], is_gpu: bool = False) -> str:
    """Return the table of the machine's limits."""
    names = ["cache", "memory"] if is_gpu else [
        f"L{k + 1}" for k in range(len(limits[0].bandwidth) - 1)] + ["DRAM"]
    giga = [("FMA float32, GFLOP/s", lambda l: l.flops["float32"]),
            ("FMA float64, GFLOP/s", lambda l: l.flops["float64"]),
            ("exp float32, G/s", lambda l: l.exps["float32"]),
            ("exp float64, G/s", lambda l: l.exps["float64"])]
    giga += [(f"bandwidth {name}, GB/s", lambda l, k=k: l.bandwidth[k][1])
             for k, name in enumerate(names)]
    return markdown(["limit", *(f"{l.threads} thr." for l in limits)], (
        [title, *(f"{read(l) / 1e9:.3g}" for l in limits)] for title, read in giga))


def stem(kind: str) -> str:
    """Return the name of a result: its kind, the date, the processor."""
    cpu = describe_cpu().partition(",")[0]
    return f"{kind}-{datetime.date.today().isoformat()}-{cpu}"


def write(folder: Path, kind: str, text: str, data: dict[str, Any]) -> Path:
    """Write a table and its data; return their path without an ending."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / stem(kind)
    path.with_suffix(".md").write_text(text + "\n")
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    return path


def machine(versions: dict[str, str]) -> str:
    """Return the line that says where the numbers come from."""
    sides = [f"{side} {version}" for side, version in versions.items()]
    return ", ".join([describe_cpu(), platform.system(), f"Python {platform.python_version()}",
                      *sides]) + "."


def rows_as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows as plain data, with what is computed from them."""
    return [{**asdict(row), "best_peer": row.best_peer,
             "ratio": None if math.isnan(row.ratio) else row.ratio,
             "distance": None if math.isnan(row.distance) else row.distance} for row in rows]


def draw_speed(rows: Sequence[Row], path: Path) -> None:
    """Draw, for each row, every side's time relative to ours, and the floor."""
    shown = [row for row in rows if OURS in row.seconds]
    sides = [side for side in dict.fromkeys(s for row in shown for s in row.seconds)
             if side != OURS]
    figure = Figure(figsize=(9, 1.5 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(shown))[::-1]
    axes.axvline(1, color="black", linewidth=1)
    for side in sides:
        have = [(place, row.seconds[side] / row.seconds[OURS])
                for place, row in zip(places, shown) if side in row.seconds]
        if have:
            heights, values = zip(*have)
            axes.plot(values, heights, "o", markersize=6, label=side)
    floors = [(place, 1 / row.distance) for place, row in zip(places, shown)
              if not math.isnan(row.distance)]
    if floors:
        heights, values = zip(*floors)
        axes.plot(values, heights, "|", color="black", markersize=12, label="the machine's limit")
    axes.set(xscale="log", xlabel="time relative to ours (right of 1: slower than we are)",
             ylim=(-0.7, len(shown) - 0.3))
    axes.set_yticks(places, [f"{row.workload}, {row.threads} thr." for row in shown])
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 1.0 / (len(shown) + 3)),
                ncols=len(sides) + 1, frameon=False)
    figure.savefig(path, dpi=130)

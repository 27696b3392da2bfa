"""The sides of a comparison: each workload in each library's own idiom.

Every module has ``SIDE``, a dict from a workload's family to a function that takes the data and
returns a :class:`sides.case.Case`.
"""

from __future__ import annotations

OURS = "tetractys"
SIDES = {OURS: ("tetractys_side", "SIDE"), "numpy": ("numpy_side", "SIDE"),
         "numba": ("numba_side", "SIDE"), "jax": ("jax_side", "SIDE"),
         "torch": ("torch_side", "SIDE"), "torch.compile": ("torch_side", "COMPILED"),
         "cupy": ("cupy_side", "SIDE")}
"""Module and table of each side; ``torch.compile`` is slow to start."""

DEFAULT_PEERS = {"cpu": ("numpy", "numba", "jax", "torch"),
                 "cuda": ("torch", "torch.compile", "jax", "cupy")}
"""Whom a device's rows compare us with."""

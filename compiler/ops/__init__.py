"""The table of operations: importing this package fills it.  One row per operation.

``op`` is the record and the registry; every other module here holds rows, by family.
"""

from . import (  # noqa: F401  (imported to fill the table)
    control, cross_entropy, elementwise, gradient, index, join, linalg, nnet, random, ranges,
    reduce, shape, softmax)
from .op import REGISTRY

OWN_ROWS = frozenset(REGISTRY.values())
"""The rows of this package: what they mean is decided by its sources alone."""

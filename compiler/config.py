"""Settings that shape how graphs are built: read when a graph is built, never inside a pass.

``TETRACTYS_FLAGS=floatX=float32,device=cpu`` in the environment sets the initial values, as
``THEANO_FLAGS`` did; ``TETRACTYS_DEVICE=cuda`` goes before the device named there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields

from ..runtime.artifact import CompileError, format_message

_CHOICES = {"floatX": ("float32", "float64"), "device": ("cpu", "cuda", "cuda:1"),
            "on_unused_input": ("raise", "warn", "ignore"), "optimize": ("full", "fast_compile"),
            "float32_matmul_precision": ("highest", "high"), "gpu_blas": ("never", "large")}


@dataclass
class Config:
    """Process-wide defaults.

    Attributes
    ----------
    floatX : str
        dtype of the unprefixed constructors and of Python floats that meet no float tensor:
        ``float64`` (default) or ``float32``.
    device : str
        Where functions run: ``cpu``, ``cuda`` or ``cuda:1`` (the number of a GPU).
    on_unused_input : str
        What ``function`` does about an input no output needs: ``raise``, ``warn`` or ``ignore``.
    optimize : str
        ``full``, or ``fast_compile`` to trade run time for compile time.
    float32_matmul_precision : str
        ``highest``: products of float32 are exact to float32.  ``high``: GPUs from compute
        capability 8.0 on round their operands to 10 bits of mantissa (tf32) and add the products up
        in float32, several times faster; elsewhere values do not change.  PyTorch calls it the
        same.
    gpu_blas : str
        ``never``: matrix products on a GPU are kernels of our own.  ``large``: cuBLAS computes
        those that are large, of two matrices as they lie in memory, and that nothing follows which
        our kernels do on the way.  It comes in a package of its own, ``nvidia-cublas``.
    """

    floatX: str = "float64"
    device: str = "cpu"
    on_unused_input: str = "raise"
    optimize: str = "full"
    float32_matmul_precision: str = "highest"
    gpu_blas: str = "never"

    def __setattr__(self, name: str, value: str) -> None:
        if name not in _CHOICES:
            raise CompileError(format_message(
                f"There is no setting {name!r}.", remedy=f"settings: {', '.join(_CHOICES)}"))
        if value not in _CHOICES[name] and not (name == "device" and is_device(value)):
            raise CompileError(format_message(
                f"The setting {name!r} cannot be {value!r}.",
                remedy=f"choose one of {', '.join(_CHOICES[name])}"))
        object.__setattr__(self, name, value)


def is_device(name: object) -> bool:
    """Return whether ``name`` is how a device is called."""
    return isinstance(name, str) and re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None


def read_flags(text: str) -> Config:
    """Return the settings a ``TETRACTYS_FLAGS`` string describes.

    Examples
    --------
    >>> read_flags("floatX=float32").floatX
    'float32'
    """
    config = Config()
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        setattr(config, name.strip(), value.strip())
    return config


SETTINGS = tuple(field.name for field in fields(Config))
config = read_flags(os.environ.get("TETRACTYS_FLAGS", ""))
if os.environ.get("TETRACTYS_DEVICE"):
    config.device = os.environ["TETRACTYS_DEVICE"]

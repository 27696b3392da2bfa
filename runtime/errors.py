"""The exceptions a user can meet, and the four-part message each of them carries.

A message says what was violated, the values involved, the user's line that built the expression,
and what to do about it.  The classes also derive from the built-in exception a Python programmer
would expect, so ``except ValueError`` catches a shape mismatch.
"""

from __future__ import annotations


class TetractysError(Exception):
    """Base of every error Tetractys raises on purpose."""


class ShapeError(TetractysError, ValueError):
    """Shapes or ranks that do not fit together."""


class DtypeError(TetractysError, TypeError):
    """Data types that do not fit together, or that an operation does not accept."""


class GradientError(TetractysError, ValueError):
    """A derivative that does not exist or was asked for wrongly."""


class CompileError(TetractysError, ValueError):
    """A graph that cannot be compiled as asked."""


class CallError(TetractysError, TypeError):
    """A compiled function called with arguments it does not take."""


class ArgumentError(TetractysError, ValueError):
    """An argument that a function or a layer does not take."""


class DeviceError(TetractysError, RuntimeError):
    """A device that is not there, or that fails."""


class IndexOutOfRangeError(TetractysError, IndexError):
    """An index outside the axis it indexes."""


class InternalError(TetractysError, AssertionError):
    """A fault of Tetractys itself: a pass produced an ill-formed program."""


def format_message(what: str, values: str = "", where: str = "", remedy: str = "") -> str:
    """Compose the four parts of a message, leaving out the ones that are empty.

    Parameters
    ----------
    what : str
        The rule that was violated, a full sentence.
    values : str
        Names, shapes and dtypes involved.
    where : str
        The user's ``file:line`` that built the expression (see ``Apply.site``).
    remedy : str
        What to do about it.

    Examples
    --------
    >>> print(format_message("Shapes disagree.", "x (3,), y (4,)", "model.py:7", "Check y."))
    Shapes disagree.
      values: x (3,), y (4,)
      built at: model.py:7
      remedy: Check y.
    """
    parts = [what]
    parts += [f"  {title}: {text}"
              for title, text in (("values", values), ("built at", where), ("remedy", remedy))
              if text]
    return "\n".join(parts)

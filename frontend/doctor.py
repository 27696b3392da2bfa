"""``python -m tetractys.doctor``: print what was found on this machine, and what to install."""

from __future__ import annotations

from .runtime.doctor import report

if __name__ == "__main__":
    print(report())

"""Networks as plain modules; `build` is the single place where an architecture becomes one."""

from segnas.nets.build import build

__all__ = ["build"]

"""What becomes of an observed value, in words."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """What became of an observed value."""

    USED = 0
    MISSING = 1
    NO_POSITION = 2
    OUTSIDE_GRID = 3
    OUTSIDE_LEVELS = 4
    NO_TIME = 5
    OUTSIDE_TIME = 6
    UNCHECKED = 7
    FAR = 8
    BAD_QUALITY = 9
    LEFT_OUT = 10
    OUT_OF_BOUNDS = 11
    DUPLICATE = 12
    HOLE = 13
    WITHHELD = 14

    @property
    def reason(self) -> str:
        """Say it in words."""
        return REASONS[self]


REASONS = {
    Status.USED: "used",
    Status.MISSING: "missing value",
    Status.NO_POSITION: "missing coordinate",
    Status.OUTSIDE_GRID: "outside the grid",
    Status.OUTSIDE_LEVELS: "outside the vertical range",
    Status.NO_TIME: "missing time",
    Status.OUTSIDE_TIME: "too far from any forecast time",
    Status.UNCHECKED: "in place and time, value not read yet",
    Status.FAR: "too far from the forecast",
    Status.BAD_QUALITY: "quality flag",
    Status.LEFT_OUT: "left out by the user",
    Status.OUT_OF_BOUNDS: "outside its valid range",
    Status.DUPLICATE: "duplicate",
    Status.HOLE: "in a hole of the domain",
    Status.WITHHELD: "withheld",
}

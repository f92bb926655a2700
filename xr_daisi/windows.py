"""Times that are analysed together, with their observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xr_daisi.bridge import Choice
    from xr_daisi.observation_batch import ObservationBatch

__all__ = ["Window"]


class Window(NamedTuple):
    """Times that are analysed together.

    Attributes
    ----------
    times : sequence of int
        Their numbers.
    observations : ObservationBatch
        Of these times.
    choice : Choice or None
        What the bridge chose for them; None where it did nothing.
    original : ObservationBatch or None
        The observations before the bridge, for messages.
    """

    times: Sequence[int]
    observations: ObservationBatch
    choice: Choice | None = None
    original: ObservationBatch | None = None

    @property
    def given(self) -> ObservationBatch:
        """The observations as they were given."""
        return self.observations if self.original is None else self.original

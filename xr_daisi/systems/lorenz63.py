"""The three-variable system of Lorenz (1963): thermal convection in its simplest form.

Its variables have no units, nor has its time; the labels take one time unit as one day. A state is
three scalars, which xarray fields hold as three variables on a grid of a single point.

References
----------
.. [1] E. N. Lorenz, "Deterministic nonperiodic flow", J. Atmos. Sci. 20, 130-141, 1963.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.errors import SettingsError, problem
from xr_daisi.systems.base import System
from xr_daisi.systems.labelling import checked_values, sample_coordinates
from xr_daisi.systems.runge_kutta import integrate

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = ["Lorenz63"]

LONG_NAMES = {
    "x": "intensity of the convection",
    "y": "temperature difference of rising and sinking flow",
    "z": "departure of the vertical temperature profile from a linear one",
}
SPIN_UP = 50.0
"""Time units after which nothing is left of a random start."""


class Lorenz63(System):
    """Integrate the Lorenz '63 equations for a batch of members.

    Parameters
    ----------
    sigma, rho, beta : float
        Prandtl number, relative Rayleigh number, and the geometry of the rolls.
    step : float
        Runge-Kutta step, time units; one unit is labelled as one day.
    device : str or torch.device
        Where to compute.
    dtype : torch.dtype
        Precision.

    Raises
    ------
    SettingsError
        For a step that is not positive.

    Examples
    --------
    >>> model = Lorenz63()
    >>> run = model.simulate(states=3, every="6h", seed=1)      # a quarter of a time unit
    >>> run.x.sizes
    Frozen({'time': 3, 'point': 1})
    """

    name = "lorenz63"
    state_shape = (3,)
    initial_error = 1.0

    def __init__(
        self,
        *,
        sigma: float = 10.0,
        rho: float = 28.0,
        beta: float = 8.0 / 3.0,
        step: float = 0.01,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if not step > 0:
            raise SettingsError(problem("step", repr(step), "a positive number of time units"))
        self.sigma, self.rho, self.beta, self.step = sigma, rho, beta, step
        self.time_step = np.timedelta64(round(step * 86_400e9), "ns")
        self.device, self.dtype = torch.device(device), dtype

    def tendency(self, states: Tensor) -> Tensor:
        """Return the time derivative of states ``(..., 3)``, per time unit."""
        x, y, z = states.unbind(-1)
        derivatives = (self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z)
        return torch.stack(derivatives, dim=-1)

    def run(self, states: Tensor, steps: int) -> Tensor:
        """Integrate states ``(..., 3)`` by a number of steps."""
        return integrate(self.tendency, states, self.step, steps)

    def spun_up(self, members: int = 1, *, seed: int = 0) -> Tensor:
        """Return independent states on the attractor, ``(members, 3)``."""
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn((members, 3), generator=generator, dtype=torch.float64)
        start = 8.0 * start + torch.tensor([0.0, 0.0, 24.0], dtype=torch.float64)
        start = start.to(device=self.device, dtype=self.dtype)
        return self.run(start, round(SPIN_UP / self.step))

    def label(
        self,
        states: Tensor | np.ndarray,
        *,
        dims: tuple[str, ...] = ("member",),
        times: np.ndarray | None = None,
    ) -> xr.Dataset:
        """Return states ``(*dims, 3)`` as a Dataset of ``x``, ``y``, ``z`` on ``(*dims, point)``.

        Raises
        ------
        StateError
            If the shape does not fit.
        """
        import xarray as xr

        values = checked_values(states, dims, (3,))
        coords: dict[str, object] = {"point": ("point", [0], {"long_name": "the only point"})}
        coords |= sample_coordinates(values, dims, times)
        data = {
            v: ((*dims, "point"), values[..., i : i + 1], {"long_name": text, "units": "1"})
            for i, (v, text) in enumerate(LONG_NAMES.items())
        }
        return xr.Dataset(data, coords=coords)

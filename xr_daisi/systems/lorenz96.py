"""The system of Lorenz (1996): waves around a circle of latitude, in as many variables as wanted.

One time unit is labelled as five days, after the error growth of the atmosphere, as in [1]_.

References
----------
.. [1] E. N. Lorenz, "Predictability: a problem partly solved", ECMWF Seminar on Predictability,
   vol. 1, 1-18, 1996.
.. [2] E. N. Lorenz and K. A. Emanuel, "Optimal sites for supplementary weather observations:
   simulation with a small model", J. Atmos. Sci. 55, 399-414, 1998.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.systems.base import System
from xr_daisi.systems.labelling import checked_values, sample_coordinates
from xr_daisi.systems.runge_kutta import integrate

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = ["Lorenz96"]

DAYS = 5.0
"""Of one time unit."""
SPIN_UP = 20.0
"""Time units after which nothing is left of a random start."""


class Lorenz96(System):
    """Integrate the Lorenz '96 equations for a batch of members.

    ``d x_i / d t = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F`` on a circle.

    Parameters
    ----------
    n : int
        Variables round the circle, at least 4.
    forcing : float
        F; 8 is chaotic.
    step : float
        Runge-Kutta step, time units; one unit is labelled as five days.
    device : str or torch.device
        Where to compute.
    dtype : torch.dtype
        Precision.

    Raises
    ------
    SettingsError
        For fewer than 4 variables or a step that is not positive.

    Examples
    --------
    >>> model = Lorenz96()
    >>> model.simulate(states=2, every="6h", seed=1).u.sizes
    Frozen({'time': 2, 'x': 40})
    """

    name = "lorenz96"
    periodic = ("x",)
    initial_error = 1.0

    def __init__(
        self,
        n: int = 40,
        *,
        forcing: float = 8.0,
        step: float = 0.05,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        problems = []
        if n < 4:
            problems.append(problem("n", repr(n), "at least 4 variables"))
        if not step > 0:
            problems.append(problem("step", repr(step), "a positive number of time units"))
        raise_problems(SettingsError, problems)
        self.n, self.forcing, self.step = n, forcing, step
        self.state_shape = (n,)
        self.time_step = np.timedelta64(round(step * DAYS * 86_400e9), "ns")
        self.device, self.dtype = torch.device(device), dtype

    def tendency(self, states: Tensor) -> Tensor:
        """Return the time derivative of states ``(..., n)``, per time unit."""
        ahead, behind, two_behind = (states.roll(k, dims=-1) for k in (-1, 1, 2))
        out: Tensor = (ahead - two_behind) * behind - states + self.forcing
        return out

    def run(self, states: Tensor, steps: int) -> Tensor:
        """Integrate states ``(..., n)`` by a number of steps."""
        return integrate(self.tendency, states, self.step, steps)

    def spun_up(self, members: int = 1, *, seed: int = 0) -> Tensor:
        """Return independent states on the attractor, ``(members, n)``."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((members, self.n), generator=generator, dtype=torch.float64)
        start = (self.forcing + noise).to(device=self.device, dtype=self.dtype)
        return self.run(start, round(SPIN_UP / self.step))

    def label(
        self,
        states: Tensor | np.ndarray,
        *,
        dims: tuple[str, ...] = ("member",),
        times: np.ndarray | None = None,
    ) -> xr.Dataset:
        """Return states ``(*dims, n)`` as a Dataset of ``u`` on ``(*dims, x)``.

        Raises
        ------
        StateError
            If the shape does not fit.
        """
        import xarray as xr

        values = checked_values(states, dims, (self.n,))
        x = ("x", np.arange(self.n, dtype=float), {"long_name": "position", "axis": "X"})
        coords: dict[str, object] = {"x": x}
        coords |= sample_coordinates(values, dims, times)
        attrs = {"long_name": "a quantity of the atmosphere", "units": "1"}
        return xr.Dataset({"u": ((*dims, "x"), values, attrs)}, coords=coords)

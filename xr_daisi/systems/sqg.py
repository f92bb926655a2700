"""Two-level surface quasi-geostrophic (SQG) turbulence on a doubly periodic plane.

Potential temperature is advected on two horizontal boundaries of a fluid of uniform stratification;
the flow follows from the two temperatures alone. It is the smallest model with weather-like
eddies, fronts and a chaotic loss of predictability within days, hence a standard test bed of
ensemble data assimilation.

Time stepping is batched over members on any torch device. The state is kept in spectral space
between steps, in *model units* (buoyancy divided by the Coriolis parameter, m s-1); labelled
output is in kelvin.

References
----------
.. [1] R. Tulloch and K. S. Smith, "Quasigeostrophic turbulence with explicit surface dynamics:
   application to the atmospheric energy spectrum", J. Atmos. Sci. 66, 450-467, 2009.
.. [2] I. M. Held, R. T. Pierrehumbert, S. T. Garner, K. L. Swanson, "Surface quasi-geostrophic
   dynamics", J. Fluid Mech. 282, 1-20, 1995.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.errors import SettingsError, StateError, problem
from xr_daisi.systems.base import System
from xr_daisi.systems.labelling import checked_values, sample_coordinates
from xr_daisi.systems.sqg_parameters import SQGParameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from torch import Tensor

__all__ = ["SQG", "SQGParameters", "to_dataset"]

SPIN_UP_DAYS = 300.0


class SQG(System):
    """Integrate the two-level SQG equations for a batch of members.

    Parameters
    ----------
    parameters : SQGParameters, optional
        Constants; the defaults are those of the published DAISI experiment.
    device : str or torch.device
        Where to compute.
    dtype : torch.dtype
        Real precision, ``torch.float32`` or ``torch.float64``.

    Examples
    --------
    >>> model = SQG(SQGParameters(n=16))
    >>> theta = model.random_state(members=2, seed=0)       # K, (member, level, y, x)
    >>> model.advance(theta, hours=3).shape
    torch.Size([2, 2, 16, 16])

    An instance is also a forecast model, with labels:

    >>> ensemble = to_dataset(theta).assign_coords(time=np.datetime64("2000-01-01", "ns"))
    >>> later = model(ensemble, np.datetime64("2000-01-01T03"))
    >>> str(later.time.values)[:16]
    '2000-01-01T03:00'
    """

    name = "sqg"
    periodic = ("y", "x")
    initial_error = 3.06
    """White noise of the published initial ensemble, K."""

    def __init__(
        self,
        parameters: SQGParameters | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parameters = p = parameters or SQGParameters()
        self.state_shape = (2, p.n, p.n)
        self.time_step = np.timedelta64(round(p.time_step * 1e9), "ns")
        self.device, self.dtype = torch.device(device), dtype
        n = p.n
        wavenumber = 2.0 * math.pi / p.length
        # Real FFT along x (last axis): kx >= 0; ky in the usual FFT order. Once, so in float64.
        kx = torch.arange(n // 2 + 1, dtype=torch.float64) * wavenumber
        ky = torch.fft.fftfreq(n, d=1.0 / n, dtype=torch.float64) * wavenumber
        total = torch.sqrt(kx[None, :] ** 2 + ky[:, None] ** 2)
        safe = total.clone()
        safe[0, 0] = 1.0  # the mean has no flow; its inversion is set to 0 below
        mu = safe * math.sqrt(p.buoyancy_frequency_squared) * p.depth / p.coriolis
        scale = p.depth / mu
        inverse_sinh, inverse_tanh = scale / torch.sinh(mu), scale / torch.tanh(mu)
        inverse_sinh[0, 0] = inverse_tanh[0, 0] = 0.0

        def real(a: Tensor) -> Tensor:
            return a.to(device=self.device, dtype=dtype)

        self._kx, self._ky = real(kx[None, :]), real(ky[:, None])
        self._k2 = real(total**2)
        self._inverse_sinh, self._inverse_tanh = real(inverse_sinh), real(inverse_tanh)
        cutoff = math.pi * n / p.length
        self._diffusion = real(
            torch.exp(-(p.time_step / p.diffusion_efold) * (total / cutoff) ** p.diffusion_order)
        )
        self._equilibrium = torch.fft.rfft2(real(self._equilibrium_jet())).to(self.device)

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON types."""
        return {**super().configuration, **asdict(self.parameters)}

    # -- state in and out -------------------------------------------------------------------------

    def _equilibrium_jet(self) -> Tensor:
        """Return the equilibrium in model units, ``(2, n, n)``, equal at both levels."""
        p = self.parameters
        wavenumber = 2.0 * math.pi / p.length
        mu = wavenumber * math.sqrt(p.buoyancy_frequency_squared) * p.depth / p.coriolis
        amplitude = (mu * 0.5 * p.jet_speed) / (wavenumber * p.depth) / math.tanh(0.5 * mu)
        y = torch.arange(p.n, dtype=torch.float64) * (p.length / p.n)
        jet = -amplitude * torch.cos(wavenumber * y)
        return jet[None, :, None].expand(2, p.n, p.n).contiguous()

    def random_state(self, members: int = 1, *, seed: int = 0) -> Tensor:
        """Return the start of a spin-up: white noise on both levels, a jet-like bump on the upper.

        Parameters
        ----------
        members : int
            Number of independent states.
        seed : int
            Seed of the noise.

        Returns
        -------
        Tensor
            Potential temperature in K, ``(member, level, y, x)``.
        """
        n = self.parameters.n
        generator = torch.Generator().manual_seed(seed)
        state = 100.0 * torch.randn((members, 2, n, n), generator=generator, dtype=torch.float64)
        angle = torch.arange(n, dtype=torch.float64) * (2.0 * math.pi / n)
        bump = torch.sin(0.5 * angle)[None, :] ** 40 * torch.sin(angle)[:, None] ** 20
        state[:, 1] += 2000.0 * bump
        state -= state.mean(dim=(-2, -1), keepdim=True)
        return (state * self.parameters.kelvin).to(device=self.device, dtype=self.dtype)

    def spun_up(self, members: int = 1, *, seed: int = 0) -> Tensor:
        """Return states after 300 days (about a minute each on one CPU thread).

        Parameters
        ----------
        members : int
            Number of independent states.
        seed : int
            Of the noise that they start from.

        Returns
        -------
        Tensor
            Potential temperature in K, ``(member, level, y, x)``.
        """
        return self.advance(self.random_state(members, seed=seed), 24.0 * SPIN_UP_DAYS)

    def _to_spectral(self, theta: Tensor) -> Tensor:
        n = self.parameters.n
        if theta.ndim < 3 or theta.shape[-3:] != (2, n, n):
            raise StateError(problem("theta", f"shape {tuple(theta.shape)}", f"(..., 2, {n}, {n})"))
        theta = theta.to(device=self.device, dtype=self.dtype)
        spectral: Tensor = torch.fft.rfft2(theta / self.parameters.kelvin)
        return spectral

    def _to_kelvin(self, spectral: Tensor) -> Tensor:
        n = self.parameters.n
        theta: Tensor = torch.fft.irfft2(spectral, s=(n, n)) * self.parameters.kelvin
        return theta

    # -- dynamics ---------------------------------------------------------------------------------

    def streamfunction(self, spectral: Tensor) -> Tensor:
        """Return the streamfunction of a temperature, both spectral, ``(..., 2, n, n // 2 + 1)``.

        Solves the vertical boundary value problem of zero interior potential vorticity
        (Tulloch and Smith 2009, eq. 6).
        """
        lower, upper = spectral[..., 0, :, :], spectral[..., 1, :, :]
        return torch.stack(
            [
                upper * self._inverse_sinh - lower * self._inverse_tanh,
                upper * self._inverse_tanh - lower * self._inverse_sinh,
            ],
            dim=-3,
        )

    def _to_fine_grid(self, spectral: Tensor) -> Tensor:
        """Transform to a grid 3/2 as fine, so that products of two fields are free of aliasing."""
        n = self.parameters.n
        fine = 3 * n // 2
        half = n // 2
        padded = spectral.new_zeros((*spectral.shape[:-2], fine, fine // 2 + 1))
        padded[..., :half, : half + 1] = spectral[..., :half, :]
        padded[..., fine - half + 1 :, : half + 1] = spectral[..., half + 1 :, :]
        field: Tensor = torch.fft.irfft2(padded, s=(fine, fine)) * 2.25
        return field

    def _to_coarse_spectral(self, field: Tensor) -> Tensor:
        n = self.parameters.n
        half = n // 2
        fine = 3 * n // 2
        full = torch.fft.rfft2(field) / 2.25
        out: Tensor = full.new_zeros((*field.shape[:-2], n, half + 1))
        out[..., :half, :] = full[..., :half, : half + 1]
        out[..., half + 1 :, :] = full[..., fine - half + 1 :, : half + 1]
        out[..., :, half] = 0.0  # the Nyquist wavenumber has no well-defined derivative
        return out

    def _tendency(self, spectral: Tensor) -> Tensor:
        p = self.parameters
        psi = self.streamfunction(spectral)
        ikx, iky = 1j * self._kx, 1j * self._ky
        fields = torch.stack([-iky * psi, ikx * psi, ikx * spectral, iky * spectral])
        u, v, gradient_x, gradient_y = self._to_fine_grid(fields)
        advection = self._to_coarse_spectral(u * gradient_x + v * gradient_y)
        relaxation = (self._equilibrium - spectral) / (p.relaxation_days * 86400.0)
        tendency: Tensor = relaxation - p.advection_factor * advection
        if p.ekman:
            friction = p.ekman * self._k2 * psi[..., 0, :, :]
            tendency[..., 0, :, :] = tendency[..., 0, :, :] + friction
        return tendency

    def _step(self, spectral: Tensor) -> Tensor:
        dt = self.parameters.time_step
        k1 = self._tendency(spectral)
        k2 = self._tendency(spectral + 0.5 * dt * k1)
        k3 = self._tendency(spectral + 0.5 * dt * k2)
        k4 = self._tendency(spectral + dt * k3)
        out: Tensor = self._diffusion * (spectral + (dt / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4))
        return out

    def _steps(self, hours: float) -> int:
        exact = hours * 3600.0 / self.parameters.time_step
        steps = round(exact)
        if steps < 0 or abs(exact - steps) > 1e-6:
            minutes = self.parameters.time_step / 60.0
            raise SettingsError(
                problem("hours", f"{hours}", f"a non-negative multiple of {minutes:g} minutes")
            )
        return steps

    def run(self, states: Tensor, steps: int) -> Tensor:
        """Integrate by a number of steps; see `advance`."""
        with torch.no_grad():
            spectral = self._to_spectral(states)
            for _ in range(steps):
                spectral = self._step(spectral)
            return self._to_kelvin(spectral)

    def label(
        self,
        states: Tensor | np.ndarray,
        *,
        dims: tuple[str, ...] = ("member",),
        times: np.ndarray | None = None,
    ) -> xr.Dataset:
        """Return states as a Dataset; see `to_dataset`."""
        return to_dataset(states, dims=dims, times=times, parameters=self.parameters)

    def advance(self, theta: Tensor, hours: float) -> Tensor:
        """Integrate forward.

        Parameters
        ----------
        theta : Tensor
            Potential temperature in K, ``(..., 2, y, x)``.
        hours : float
            Length of the integration; a multiple of the time step.

        Returns
        -------
        Tensor
            The state at the end, same shape, K.

        Raises
        ------
        SettingsError
            If `hours` is negative or not a multiple of the time step.
        StateError
            If `theta` has another shape.
        """
        return self.run(theta, self._steps(hours))

    def trajectory(self, theta: Tensor, *, hours: float, states: int) -> Iterator[Tensor]:
        """Yield `states` states, the first one `hours` after the start, then every `hours`.

        Parameters
        ----------
        theta : Tensor
            Start in K, ``(..., 2, y, x)``.
        hours : float
            Interval between states.
        states : int
            How many to yield.

        Yields
        ------
        Tensor
            State in K, the shape of `theta`.

        Raises
        ------
        SettingsError, StateError
            As for `advance`.
        """
        steps = self._steps(hours)
        with torch.no_grad():
            spectral = self._to_spectral(theta)
            for _ in range(states):
                for _ in range(steps):
                    spectral = self._step(spectral)
                yield self._to_kelvin(spectral)


def to_dataset(
    theta: Tensor | np.ndarray,
    *,
    dims: tuple[str, ...] = ("member",),
    times: np.ndarray | None = None,
    parameters: SQGParameters | None = None,
) -> xr.Dataset:
    """Label states as a CF Dataset.

    Parameters
    ----------
    theta : Tensor or ndarray
        Potential temperature in K, ``(*dims, 2, y, x)``.
    dims : tuple of str
        Names of the leading dimensions, e.g. ``("time", "member")``.
    times : ndarray of datetime64, optional
        Coordinate of a dimension called ``time``.
    parameters : SQGParameters, optional
        Gives the extent of the domain; the default one when None.

    Returns
    -------
    xarray.Dataset
        One variable ``theta`` (K) on ``(*dims, level, y, x)``; `y` and `x` in km, `level` in m.

    Raises
    ------
    StateError
        If the shape is not that of `dims`, two levels and the grid.
    """
    import xarray as xr

    p = parameters or SQGParameters(n=theta.shape[-1])
    values = checked_values(theta, dims, (2, p.n, p.n), what="theta")
    axis = np.arange(p.n) * (p.length / p.n / 1000.0)
    coords: dict[str, object] = {
        "level": (
            "level",
            [0.0, p.depth],
            {"long_name": "height of the boundary", "units": "m", "axis": "Z", "positive": "up"},
        ),
        "y": ("y", axis, {"long_name": "distance northward", "units": "km", "axis": "Y"}),
        "x": ("x", axis, {"long_name": "distance eastward", "units": "km", "axis": "X"}),
    }
    coords |= sample_coordinates(values, dims, times)
    attrs = {
        "standard_name": "air_potential_temperature",
        "long_name": "potential temperature anomaly",
        "units": "K",
    }
    return xr.Dataset({"theta": ((*dims, "level", "y", "x"), values, attrs)}, coords=coords)

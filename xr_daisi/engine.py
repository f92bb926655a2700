"""One analysis as arrays: members of one time in, members out, in batches through the network.

NumPy at the outside, torch inside, no labels: what a dask task, a test or the eager path calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from xr_daisi.batches import Batches
from xr_daisi.devices import automatic_batch, resolve_device, resolve_dtype
from xr_daisi.divergence import check_diverged
from xr_daisi.errors import SettingsError, problem
from xr_daisi.guidance import GuidedFlow
from xr_daisi.guidance_observations import check_observed
from xr_daisi.holes import MaskedFlow, MaskedNoise, fill_holes, holes_of
from xr_daisi.noise import NoiseSource, initial_noise
from xr_daisi.perturbed_observations import OwnErrors
from xr_daisi.sampling import generate, invert, renoise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from xr_daisi.flow import Flow
    from xr_daisi.observations import ObservationBatch
    from xr_daisi.priors import FlowPrior
    from xr_daisi.settings import Settings
    from xr_daisi.state import Normalization
    from xr_daisi.tiling import Tiling

__all__ = ["Engine"]

T = TypeVar("T")

FAR = 30.0
"""Standard deviations of the prior beyond which a forecast has wrong units rather than weather."""


@dataclass(frozen=True)
class Engine:
    """Inverse and guided sampling for members of one time.

    Attributes
    ----------
    prior : FlowPrior
        The prior.
    settings : Settings
        How to sample.
    seed : int
        Of all noise.
    device, dtype : str
        Where and in which precision the network runs.
    batch : int or None
        Members at once; None chooses.
    tiling : Tiling or None
        How fields are cut; None is not at all.
    compiled : bool
        Whether torch compiles the network.
    method : {"daisi", "renoise", "prior-only"}
        How guided sampling starts: from the inverted forecast, from the forecast and fresh noise in
        the proportions of ``t_min``, or from noise alone (with ``t_min = 0``).

    Raises
    ------
    SettingsError
        For a device, dtype or batch that cannot be.
    """

    prior: FlowPrior
    settings: Settings
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    batch: int | None = None
    tiling: Tiling | None = None
    compiled: bool = False
    method: str = "daisi"

    joint = False
    """Members are independent of each other."""

    def __post_init__(self) -> None:
        resolve_dtype(self.dtype)
        if not self.device.startswith("cuda"):  # workers may have GPUs where we have none
            resolve_device(self.device)
        if self.batch is not None and self.batch < 1:
            raise SettingsError(problem("batch", repr(self.batch), "a positive integer, or 'auto'"))

    @property
    def normalization(self) -> Normalization:
        """Of the states that the network sees."""
        return self.prior.normalization

    @property
    def batch_size(self) -> int:
        """Members pushed through the network at once."""
        points = int(np.prod(self.prior.spec.space_shape))
        return self.batch or automatic_batch(points, resolve_device(self.device))

    def analyse(
        self,
        states: np.ndarray,
        observations: ObservationBatch,
        *,
        time: str = "",
        first_member: int = 0,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Assimilate observations into members of one time.

        Parameters
        ----------
        states : ndarray
            Physical forecast ``(member, channel, *space)`` in the prior's units; NaN at the same
            points of every member are holes.
        observations : ObservationBatch
            Of this time, at least one, none in a hole.
        time : str
            Label that keys the noise.
        first_member : int
            Position of the first member in the whole ensemble.
        advance : callable, optional
            Called with the number of members done.

        Returns
        -------
        ndarray
            Physical analysis, float64, shape of `states`, NaN in the holes.

        Raises
        ------
        OperatorError
            If the observation operator is not finite for the forecast.
        DivergenceError
            Naming the members that left every bound.
        """
        s = self.settings
        holes = holes_of(states[0])
        device, flow = self.flow_past(holes)
        tensors = observations.to_tensors(self.normalization, device, self.solver_dtype)
        guided = GuidedFlow(
            flow,
            tensors,
            guidance=s.guidance,
            strength=s.strength,
            solver=s.guidance_solver,
            iterations=s.guidance_iterations,
        )
        own = None
        if s.perturb_obs and self.method == "daisi":
            own = OwnErrors.of(observations, self.prior.spec, self.seed, self.labels(time))
        inverse_steps, guided_steps = s.step_counts
        out = np.empty(states.shape)
        batches = self.batches_of(states, holes, time, first_member)
        for part, x, source in batches:
            with batches.attempt():
                check_observed(tensors.observe(x), time)
                if own is not None:
                    guided.perturbations = own.draw(tensors, source.members, x)
                if s.start > 0.0 and self.method == "renoise":
                    z = renoise(flow.interpolant, x, t_min=s.start, source=source)
                elif s.start > 0.0:
                    z = invert(
                        flow,
                        x,
                        t_min=s.start,
                        steps=inverse_steps,
                        solver=s.solver,
                        noise=s.inverse_noise,
                        source=source,
                    )
                else:
                    z = initial_noise(source, x.shape[1:], x.dtype, device)
                y = generate(
                    guided,
                    z,
                    t_min=s.start,
                    steps=guided_steps,
                    solver=s.solver,
                    noise=s.noise,
                    corrector_steps=s.corrector_steps,
                    source=source,
                )
                self._check(x, y, time, part.start + first_member)
                out[part] = self._physical(y, holes)
                if advance:
                    advance(part.stop - part.start)
        return out

    def invert(self, states: np.ndarray, *, time: str = "", first_member: int = 0) -> np.ndarray:
        """Carry members of one time to latent space at ``t_min``.

        Parameters
        ----------
        states : ndarray
            Physical forecast ``(member, channel, *space)`` in the prior's units, with holes as in
            `analyse`.
        time : str
            Label that keys the noise.
        first_member : int
            Position of the first member in the whole ensemble.

        Returns
        -------
        ndarray
            Normalised latents, float64, shape of `states`, NaN in the holes.

        Raises
        ------
        DivergenceError
            Naming the members that left every bound.
        """
        s = self.settings
        holes = holes_of(states[0])
        _, flow = self.flow_past(holes)
        out = np.empty(states.shape)
        batches = self.batches_of(states, holes, time, first_member)
        for part, x, source in batches:
            with batches.attempt():
                z = invert(
                    flow,
                    x,
                    t_min=s.start,
                    steps=s.step_counts[0],
                    solver=s.solver,
                    noise=s.inverse_noise,
                    source=source,
                )
                self._check(x, z, time, part.start + first_member)
                out[part] = fill_holes(z.double().cpu().numpy(), holes, np.nan)
        return out

    def with_settings(self, settings: Settings) -> Engine:
        """Return an engine with other settings and the same prior."""
        return replace(self, settings=settings)

    def there_and_back(self, states: np.ndarray, *, time: str = "") -> np.ndarray:
        """Carry members to latent space at ``t_min`` and back without observations.

        Parameters
        ----------
        states : ndarray
            Physical forecast ``(member, channel, *space)`` in the prior's units, with holes as in
            `analyse`.
        time : str
            Label that keys the noise.

        Returns
        -------
        ndarray
            Physical states, float64, shape of `states`.

        Raises
        ------
        DivergenceError
            Naming the members that left every bound.
        """
        s = self.settings
        holes = holes_of(states[0])
        _, flow = self.flow_past(holes)
        out = np.empty(states.shape)
        inverse, guided = s.step_counts
        batches = self.batches_of(states, holes, time, 0)
        for part, x, source in batches:
            with batches.attempt():
                how: dict[str, Any] = {"t_min": s.start, "solver": s.solver, "source": source}
                z = invert(flow, x, steps=inverse, noise=s.inverse_noise, **how)
                y = generate(flow, z, steps=guided, noise=s.noise, **how)
                self._check(x, y, time, part.start)
                out[part] = self._physical(y, holes)
        return out

    def sample(self, members: int, *, time: str = "") -> np.ndarray:
        """Draw states from the prior alone.

        Parameters
        ----------
        members : int
            How many.
        time : str
            Label that keys the noise.

        Returns
        -------
        ndarray
            Physical states ``(member, channel, *space)``, float64, in the prior's units; NaN in
            the prior's holes.

        Raises
        ------
        DivergenceError
            Naming the members that left every bound.
        """
        s = self.settings
        shape = self.prior.spec.shape
        holes = self.prior.holes
        device, flow = self.flow_past(holes)
        keep = self._keep(holes)
        out = np.empty((members, *shape))
        batches = self._in_batches(members, shape, lambda part: part)
        for part in batches:
            with batches.attempt():
                source = self._source(time, range(part.start, part.stop), keep)
                z = initial_noise(source, shape, self.solver_dtype, device)
                x = generate(
                    flow,
                    z,
                    t_min=0.0,
                    steps=s.step_counts[1],
                    solver=s.solver,
                    noise=s.noise,
                    source=source,
                )
                self._check(z, x, time, part.start)
                out[part] = self._physical(x, holes)
        return out

    # -- parts ------------------------------------------------------------------------------------

    def device_and_flow(self) -> tuple[torch.device, Flow]:
        """Return the device of this machine, and the prior's flow on it."""
        device = resolve_device(self.device)
        flow = self.prior.flow(device, resolve_dtype(self.dtype), compiled=self.compiled)
        if self.tiling is not None:
            flow = self.tiling.tiled(flow, self.prior.spec.space_shape, self.prior.spec.periodic)
        return device, flow

    @property
    def solver_dtype(self) -> torch.dtype:
        """Precision of the states: bfloat16 is for the network alone."""
        dtype = resolve_dtype(self.dtype)
        return torch.float32 if dtype == torch.bfloat16 else dtype

    def batches_of(
        self, states: np.ndarray, holes: NDArray[np.bool_] | None, time: str, first_member: int
    ) -> Batches[tuple[slice, Tensor, NoiseSource]]:
        """Batches of physical members: which, normalised with holes filled, and their noise."""
        device = resolve_device(self.device)
        keep = self._keep(holes)

        def make(part: slice) -> tuple[slice, Tensor, NoiseSource]:
            normalised = self.normalization.normalize(states[part].astype(float))
            x = torch.from_numpy(fill_holes(normalised, holes)).to(device, self.solver_dtype)
            members = range(first_member + part.start, first_member + part.stop)
            return part, x, self._source(time, members, keep)

        return self._in_batches(states.shape[0], states.shape[1:], make)

    def _in_batches(
        self, members: int, shape: tuple[int, ...], make: Callable[[slice], T]
    ) -> Batches[T]:
        """Batches as `make` returns them, smaller where memory does not suffice."""
        device = resolve_device(self.device)
        return Batches(
            members,
            self.batch_size,
            make,
            device,
            fixed=self.batch is not None,
            limits=(self.prior.batch_limits, (str(device), self.dtype, shape)),
        )

    def flow_past(self, holes: NDArray[np.bool_] | None) -> tuple[torch.device, Flow]:
        """Device, and the flow on it, blind to holes."""
        device, flow = self.device_and_flow()
        keep = self._keep(holes)
        return device, flow if keep is None else MaskedFlow(flow, keep)

    def _keep(self, holes: NDArray[np.bool_] | None) -> Tensor | None:
        if holes is None or not holes.any():
            return None
        return torch.from_numpy(~holes).to(resolve_device(self.device))

    def _source(self, time: str, members: range, keep: Tensor | None) -> NoiseSource:
        source = NoiseSource(self.seed, time, members)
        return source if keep is None else MaskedNoise(source, keep)

    def labels(self, time: str) -> tuple[str, ...]:
        """Labels of the times that are analysed together, from the one of them all."""
        return (time,)

    def is_far(self, states: np.ndarray, limit: float = FAR) -> bool:
        """Tell whether physical states lie where only wrong units could have brought them."""
        far = np.abs(self.normalization.normalize(states)) > limit  # false for NaN in holes
        return bool(far.any())

    def _physical(self, x: Tensor, holes: NDArray[np.bool_] | None) -> np.ndarray:
        physical = self.normalization.denormalize(x.double().cpu().numpy())
        return fill_holes(physical, holes, np.nan)

    def _check(self, before: Tensor, after: Tensor, time: str, first: int) -> None:
        check_diverged(before, after, self.settings, time, first)

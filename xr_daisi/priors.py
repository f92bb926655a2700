"""A flow prior: a network with the card that says what it is a prior of."""

from __future__ import annotations

import copy
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xr_daisi.converters import velocity_from
from xr_daisi.errors import DaisiTypeError, PriorError, problem
from xr_daisi.flow import INTERPOLANTS, Flow
from xr_daisi.inference import Inference
from xr_daisi.networks import KNOWN_NETWORKS
from xr_daisi.prior_contents import pack, unpack
from xr_daisi.prior_files import digest, settings_entries, write_file
from xr_daisi.prior_grid import parts_on_grid
from xr_daisi.prior_repr import html, text
from xr_daisi.prior_statistics import statistic
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["FlowPrior"]

_building = threading.Lock()


class FlowPrior:
    """A trained flow with its card: variables, grid, normalisation, recommended settings.

    Made by `xr_daisi.train_prior`, `xr_daisi.load_prior`, `FlowPrior.from_velocity` or
    `FlowPrior.from_denoiser`; immutable in use.

    Parameters
    ----------
    network : callable or torch.nn.Module
        ``velocity(x, t)`` on normalised states ``(batch, channel, *space)``.
    spec : StateSpec
        Variables and grid.
    normalization : Normalization
        Between physical and normalised states.
    settings : Settings, optional
        Recommended sampling settings.
    interpolant : str
        Name of the schedule.
    card : dict, optional
        What else is known: name, description, training, losses, licence, attribution.

    Raises
    ------
    DaisiTypeError
        For a network that cannot be called.
    PriorError
        For an unknown interpolant, or another than the network's.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        spec: StateSpec,
        normalization: Normalization,
        *,
        settings: Settings | None = None,
        interpolant: str = "linear",
        card: dict[str, Any] | None = None,
    ) -> None:
        if not callable(network):
            raise DaisiTypeError(
                problem("network", type(network).__name__, "a callable velocity(x, t)")
            )
        known = ", ".join(sorted(INTERPOLANTS))
        if interpolant not in INTERPOLANTS:
            raise PriorError(problem("interpolant", repr(interpolant), f"one of {known}"))
        if isinstance(network, KNOWN_NETWORKS) and network.config.interpolant != interpolant:
            raise PriorError(
                problem(
                    "interpolant",
                    repr(interpolant),
                    f"{network.config.interpolant!r}, its network's",
                )
            )
        self.network = network
        self.spec = spec
        self.normalization = normalization
        self.settings = settings or Settings()
        self.interpolant = interpolant
        self.card = dict(card or {})
        self._sha256: str | None = None
        self._flows: dict[tuple[str, str, bool], Flow] = {}
        self.batch_limits: dict[tuple[object, ...], int] = {}  # where memory did not suffice
        self._uuid = uuid.uuid4().hex

    # -- from other networks ----------------------------------------------------------------------

    @classmethod
    def from_velocity(
        cls,
        velocity: Callable[[Tensor, Tensor], Tensor],
        template: xr.Dataset,
        *,
        mean: float | xr.Dataset = 0.0,
        std: float | xr.Dataset = 1.0,
        periodic: Sequence[str] = (),
        interpolant: str = "linear",
        name: str = "custom",
    ) -> FlowPrior:
        """Wrap a velocity network.

        Parameters
        ----------
        velocity : callable
            ``velocity(x, t)`` takes normalised states ``(batch, channel, *space)`` and times
            ``(batch,)``, all equal within a call, both in the solver's dtype; t = 0 is noise,
            t = 1 data. Returns the velocity in the shape of x.
        template : xarray.Dataset
            One state: variables, levels, their order and the grid; its values do not matter.
        mean, std : float or xarray.Dataset
            Normalisation: numbers in the template's units, or Datasets with a value per variable,
            level or grid point, in the units they name, else the template's.
        periodic : sequence of str
            Space dimensions that the network takes for periodic. Observations are interpolated
            round the globe in any case.
        interpolant : str
            Schedule of the network: ``"linear"`` or ``"trig"``.
        name : str
            Name on the card.

        Returns
        -------
        FlowPrior
            The prior; it cannot be saved, and its sha256 is None.

        Raises
        ------
        StateError, PriorError
            For a template, normalisation or interpolant that does not fit.
        DaisiTypeError
            For a velocity that cannot be called, or statistics of another type.

        Examples
        --------
        >>> import numpy as np, xarray as xr, xr_daisi
        >>> template = xr.Dataset({"t": (("y", "x"), np.zeros((8, 8)))})
        >>> def gaussian(x, t):                      # the exact velocity for N(0, 1)
        ...     t = t.reshape(-1, 1, 1, 1)
        ...     return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
        >>> xr_daisi.FlowPrior.from_velocity(gaussian, template).spec.shape
        (1, 8, 8)
        """
        wraps = (periodic,) if isinstance(periodic, str) else tuple(periodic)
        spec = spec_from_dataset(template, periodic=wraps)
        normalization = Normalization(
            statistic(mean, spec, "mean", difference=False),
            statistic(std, spec, "std", difference=True),
        )
        return cls(velocity, spec, normalization, interpolant=interpolant, card={"name": name})

    @classmethod
    def from_denoiser(
        cls,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        template: xr.Dataset,
        *,
        schedule: str = "edm",
        mean: float | xr.Dataset = 0.0,
        std: float | xr.Dataset = 1.0,
        periodic: Sequence[str] = (),
        name: str = "custom",
        **options: Any,
    ) -> FlowPrior:
        """Wrap a diffusion model trained as a denoiser or noise predictor.

        Parameters
        ----------
        denoiser : callable
            ``"edm"``: ``D(y, sigma)``, the denoised state of ``y = x1 + sigma n``.
            ``"epsilon"``, ``"v"``: ``f(y, t)`` of a variance-preserving schedule
            ``y = sqrt(alpha_bar) x1 + sqrt(1 - alpha_bar) n``.
        template, mean, std, periodic, name
            As in `from_velocity`.
        schedule : str
            ``"edm"``, ``"epsilon"`` or ``"v"``.
        **options
            For the schedule: ``sigma_min``, ``sigma_max`` (edm); ``alpha_bar`` and more
            (epsilon, v): see `xr_daisi.flow.velocity_from_edm`, ``velocity_from_epsilon``,
            ``velocity_from_v``.

        Returns
        -------
        FlowPrior
            The prior, on the linear interpolant by matching signal-to-noise ratios.

        Raises
        ------
        PriorError
            For an unknown schedule.
        """
        velocity = velocity_from(schedule, denoiser, **options)
        return cls.from_velocity(
            velocity, template, mean=mean, std=std, periodic=periodic, name=name
        )

    # -- use --------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # Copies on a device stay where they are: a worker makes its own, once.
        return {**self.__dict__, "_flows": {}, "batch_limits": {}}

    @property
    def name(self) -> str:
        """Name on the card."""
        return str(self.card.get("name") or "unnamed")

    @property
    def holes(self) -> NDArray[np.bool_] | None:
        """Where states are NaN by construction, ``(channel, *space)``.

        A prior that was trained knows it, if only that there are none; None is for a prior around
        a network of the user's own, which takes the holes of the forecast.
        """
        return self.normalization.holes

    @property
    def sha256(self) -> str | None:
        """Identity of weights and card, settings apart; None for a network of the user's own."""
        if self._sha256 is None:
            if not isinstance(self.network, KNOWN_NETWORKS):
                return None
            self._sha256 = digest(*pack(self))
        return self._sha256

    @property
    def identity(self) -> str:
        """What copies in other processes have in common: `sha256`, else a random name."""
        return self.sha256 or self._uuid

    def with_settings(self, **settings: Any) -> FlowPrior:
        """Return a copy that recommends other settings.

        Parameters
        ----------
        **settings
            Any of `t_min`, `bridge`, `perturb_obs`, `steps`, `solver`, `noise`, `inverse_noise`,
            `corrector_steps`, `guidance`, `guidance_solver`, `guidance_iterations`, `strength`.

        Raises
        ------
        SettingsError
            For unknown names or values out of range.
        """
        other = copy.copy(self)
        other.card = copy.deepcopy(self.card)
        other.settings = self.settings.updated(settings)
        # One network on a device serves both.
        other._flows, other.batch_limits = self._flows, self.batch_limits
        return other

    def on_grid(self, template: xr.Dataset, *, periodic: Sequence[str] | None = None) -> FlowPrior:
        """Return a copy for another grid, with the same weights, card, settings and sha256.

        The network must be fully convolutional, as those of `train_prior` are. It counts in grid
        points, so the spacing of the grid should be that of the training.

        Parameters
        ----------
        template : xarray.Dataset
            The prior's variables and levels on the new grid, e.g. the forecast.
        periodic : sequence of str, optional
            Its periodic dimensions; when None, longitudes round the globe, and those without
            longitudes that are periodic in the prior.

        Raises
        ------
        PriorError, StateError
            For a prior that belongs to its own points (normalised at each, with static fields or
            holes), and for a template without its variables, levels or dimensions.

        Warns
        -----
        SpacingWarning
            Where the spacing is another than that of the training.
        """
        other = self.with_settings()
        other.network, other.spec, other.normalization = parts_on_grid(self, template, periodic)
        other._sha256, other._flows = self.sha256, {}
        return other

    def flow(self, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> Flow:
        """Return the flow on a device.

        Parameters
        ----------
        device : torch.device
            Where the network is to run.
        dtype : torch.dtype
            float32 or float64 of the solver and network; bfloat16 runs the network under autocast
            with the solver in float32.
        compiled : bool
            Whether torch compiles the network.

        Returns
        -------
        Flow
            Velocity in evaluation mode; the prior's own network is left as it is.
        """
        key = (str(device), str(dtype), compiled)
        with _building:  # threads that come at once share one copy
            if key not in self._flows:
                network = self.network
                if isinstance(network, nn.Module):
                    network = Inference(network, device, dtype, compiled=compiled)
                self._flows[key] = Flow(network, INTERPOLANTS[self.interpolant])
            return self._flows[key]

    def template(self) -> xr.Dataset:
        """Return a Dataset of zeros on the prior's variables, levels and grid, NaN in holes."""
        template = self.spec.to_dataset()
        if self.holes is not None and self.holes.any():
            for v in self.spec.variables:
                holes = self.holes[self.spec.channel_slice(v.name)]
                values = template[v.name].data  # without level dimension where v has none
                values[holes.reshape(values.shape)] = np.nan
        return template

    @property
    def parameter_count(self) -> int | None:
        """Number of network parameters; None if the network is not a torch module."""
        if isinstance(self.network, nn.Module):
            return sum(p.numel() for p in self.network.parameters())
        return None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write weights and card to one ``.safetensors`` file.

        Parameters
        ----------
        path : str or Path
            Where to; written under a temporary name and moved into place when complete.
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        PriorError
            If the network is not one of this package's, or a setting cannot be written.
        FileExistsError
            If the file exists and `overwrite` is False.
        OSError
            If it cannot be written; nothing is left of it then.
        """
        write_file(path, *pack(self), settings_entries(self.settings), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> FlowPrior:
        """Load a prior from a file; `xr_daisi.load_prior` also takes URLs and names.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file that `save` wrote. Nothing in it is executed.

        Raises
        ------
        PriorError
            If the file is damaged, foreign or of a newer format.
        """
        contents = unpack(Path(path))
        prior = cls(
            contents.network,
            contents.spec,
            contents.normalization,
            settings=contents.settings,
            interpolant=contents.interpolant,
            card=contents.card,
        )
        prior._sha256 = contents.sha256
        return prior

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)

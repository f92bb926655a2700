"""A flow prior: a network with the card that says what it is a prior of."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xr_daisi.errors import DaisiError, PriorError, problem
from xr_daisi.flow import (
    INTERPOLANTS,
    Flow,
    velocity_from_edm,
    velocity_from_epsilon,
    velocity_from_v,
)
from xr_daisi.networks import UNet, build_network
from xr_daisi.prior_files import (
    FORMAT,
    FORMAT_VERSION,
    damaged,
    digest,
    read_file,
    write_file,
)
from xr_daisi.prior_repr import html, text
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    import xarray as xr

__all__ = ["FlowPrior"]

_DERIVED = (
    "format",
    "format_version",
    "state",
    "transforms",
    "network",
    "interpolant",
    "settings",
    "sha256",
)
"""Entries of a card that follow from the prior itself."""


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
        if interpolant not in INTERPOLANTS:
            raise PriorError(
                problem("interpolant", repr(interpolant), f"one of {sorted(INTERPOLANTS)}")
            )
        self.network = network
        self.spec = spec
        self.normalization = normalization
        self.settings = settings or Settings()
        self.interpolant = interpolant
        self.card = dict(card or {})
        self._sha256: str | None = None
        self._flows: dict[tuple[str, str], Flow] = {}

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
            Normalisation: numbers, or Datasets with a value per variable, level or grid point, in
            the template's units.
        periodic : sequence of str
            Periodic space dimensions.
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
            For a template or a normalisation that does not fit.

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
        spec = spec_from_dataset(template, periodic=tuple(periodic))
        normalization = Normalization(
            _statistic(mean, spec, "mean"), _statistic(std, spec, "std")
        )
        return cls(
            velocity, spec, normalization, interpolant=interpolant, card={"name": name}
        )

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
            For the schedule: ``sigma_min``, ``sigma_max`` (edm); ``alpha_bar`` and more (epsilon, v):
            see `xr_daisi.flow.velocity_from_edm`, ``velocity_from_epsilon``, ``velocity_from_v``.

        Returns
        -------
        FlowPrior
            The prior, on the linear interpolant by matching signal-to-noise ratios.

        Raises
        ------
        PriorError
            For an unknown schedule.
        """
        converters: dict[str, Callable[..., Callable[[Tensor, Tensor], Tensor]]] = {
            "edm": velocity_from_edm,
            "epsilon": velocity_from_epsilon,
            "v": velocity_from_v,
        }
        if schedule not in converters:
            raise PriorError(problem("schedule", repr(schedule), f"one of {sorted(converters)}"))
        velocity = converters[schedule](denoiser, **options)
        return cls.from_velocity(
            velocity, template, mean=mean, std=std, periodic=periodic, name=name
        )

    # -- use --------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # Copies on a device stay where they are: a worker makes its own, once.
        return {**self.__dict__, "_flows": {}}

    @property
    def name(self) -> str:
        """Name on the card."""
        return str(self.card.get("name") or "unnamed")

    @property
    def sha256(self) -> str | None:
        """Identity of weights and card, settings apart; None for a network of the user's own."""
        if self._sha256 is None:
            if not isinstance(self.network, UNet):
                return None
            self._sha256 = digest(*self._contents())
        return self._sha256

    def with_settings(self, **settings: Any) -> FlowPrior:
        """Return a copy that recommends other settings.

        Parameters
        ----------
        **settings
            Any of `t_min`, `steps`, `solver`, `noise`, `inverse_noise`, `corrector_steps`,
            `guidance`, `guidance_solver`, `guidance_iterations`, `strength`.

        Raises
        ------
        SettingsError
            For unknown names or values out of range.
        """
        other = copy.copy(self)
        other.card = copy.deepcopy(self.card)
        other.settings = self.settings.updated(settings)
        return other

    def flow(self, device: torch.device, dtype: torch.dtype) -> Flow:
        """Return the flow on a device.

        Parameters
        ----------
        device : torch.device
            Where the network is to run.
        dtype : torch.dtype
            float32 or float64 of the solver and network; bfloat16 runs the network under autocast
            with the solver in float32.

        Returns
        -------
        Flow
            Velocity in evaluation mode; the prior's own network is left as it is.
        """
        key = (str(device), str(dtype))
        if key not in self._flows:
            network: Any = self.network
            if isinstance(network, nn.Module):
                target = torch.float32 if dtype == torch.bfloat16 else dtype
                if _needs_copy(network, device, target):
                    network = copy.deepcopy(network).to(device=device, dtype=target)
                network = _Inference(network, device, autocast=dtype == torch.bfloat16)
            self._flows[key] = Flow(network, INTERPOLANTS[self.interpolant])
        return self._flows[key]

    def template(self) -> xr.Dataset:
        """Return a Dataset of zeros with the variables, levels and grid of the prior."""
        return self.spec.to_dataset()

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
        """
        if callable(self.settings.strength):
            raise PriorError(
                problem(
                    "strength",
                    "a callable",
                    "a number, to be written on a card",
                    "with_settings(strength=...) before saving, and pass the callable to "
                    "assimilate",
                )
            )
        write_file(path, *self._contents(), self.settings.to_dict(), overwrite=overwrite)

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
        tensors, card, settings, sha256 = read_file(Path(path))
        try:
            weights = {
                k.removeprefix("network."): v
                for k, v in tensors.items()
                if k.startswith("network.")
            }
            static = weights["static"]
            network = build_network(card["network"], static if static.numel() else None)
            network.load_state_dict(weights)
            prior = cls(
                network.eval().requires_grad_(False),
                StateSpec.from_dict(card["state"]),
                Normalization(
                    tensors["normalization.mean"].numpy().astype(float),
                    tensors["normalization.std"].numpy().astype(float),
                    tuple(card["transforms"]),
                ),
                settings=Settings().updated(settings),
                interpolant=card["interpolant"],
                card={k: v for k, v in card.items() if k not in _DERIVED},
            )
        except DaisiError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(Path(path), f"a card that does not fit its weights ({error})") from error
        prior._sha256 = sha256
        return prior

    def _contents(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and card as a file holds them."""
        network = self.network
        if not isinstance(network, UNet):
            raise PriorError(
                problem(
                    f"prior {self.name!r}",
                    f"a network of type {type(network).__name__}",
                    "one of this package's",
                    "only priors with a known network can be saved; keep the code that wraps "
                    "yours and call from_velocity or from_denoiser again",
                )
            )
        tensors = {f"network.{k}": v.detach().cpu() for k, v in network.state_dict().items()}
        tensors["normalization.mean"] = torch.from_numpy(np.array(self.normalization.mean))
        tensors["normalization.std"] = torch.from_numpy(np.array(self.normalization.std))
        card = {
            **{k: v for k, v in self.card.items() if k not in _DERIVED},
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "state": self.spec.to_dict(),
            "transforms": list(self.normalization.transforms),
            "network": network.config.to_dict(),
            "interpolant": self.interpolant,
        }
        # Views of one storage (a broadcast mean) are written out in full.
        return {k: v.clone().contiguous() for k, v in tensors.items()}, card

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


class _Inference:
    """A network for sampling: no parameter gradients, evaluation mode, autocast when asked."""

    def __init__(self, network: nn.Module, device: torch.device, *, autocast: bool) -> None:
        self.network = network.eval().requires_grad_(False)
        self.device_type = device.type
        self.autocast = autocast

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        context = (
            torch.autocast(self.device_type, torch.bfloat16) if self.autocast else nullcontext()
        )
        with context:
            out: Tensor = self.network(x, t)
        return out


def _needs_copy(network: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = [*network.parameters(), *network.buffers()]
    return (
        network.training
        or any(p.requires_grad for p in network.parameters())
        or any(p.device != device or (p.is_floating_point() and p.dtype != dtype) for p in tensors)
    )


def _statistic(value: float | xr.Dataset, spec: StateSpec, what: str) -> np.ndarray:
    """Bring a number or Dataset of statistics to ``(channel, 1, ...)`` or ``(channel, *space)``."""
    ones = (1,) * len(spec.dims)
    if isinstance(value, (int, float, np.number)):
        return np.full((spec.channels, *ones), float(value))
    parts = []
    for v in spec.variables:
        if v.name not in value:
            raise PriorError(
                problem(
                    what, f"variables {', '.join(map(str, value.data_vars))}", f"{v.name!r} too"
                )
            )
        da = value[v.name]
        extra = set(da.dims) - {v.level_dim, *spec.dims}
        if extra or (set(spec.dims) & set(da.dims) and not set(spec.dims) <= set(da.dims)):
            raise PriorError(
                problem(
                    f"{what} of {v.name!r}",
                    f"dimensions {tuple(da.dims)}",
                    f"none, level, or level and {spec.dims}",
                    "reduce over the other dimensions",
                )
            )
        if v.level_dim in da.dims and v.level_dim in da.coords:
            da = da.sel({v.level_dim: list(v.levels or ())})
        per_point = bool(set(spec.dims) & set(da.dims))
        order = [d for d in (v.level_dim, *spec.dims) if d in da.dims]
        values = da.transpose(*order).to_numpy().astype(float)
        if v.level_dim is None or v.level_dim not in da.dims:
            values = np.broadcast_to(values, (v.size, *values.shape))
        values = values if per_point else values.reshape(v.size, *ones)
        if per_point and values.shape[1:] != spec.space_shape:
            raise PriorError(
                problem(f"{what} of {v.name!r}", f"shape {values.shape}", f"{spec.space_shape}")
            )
        parts.append(np.broadcast_to(values, (v.size, *values.shape[1:])))
    if len({p.shape[1:] for p in parts}) > 1:
        parts = [np.broadcast_to(p, (p.shape[0], *spec.space_shape)) for p in parts]
    return np.concatenate(parts)

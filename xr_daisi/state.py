"""What a state is: variables, levels, grid, normalisation; the border of labels and tensors.

Channels are the variables in the template's order, each variable's levels unrolled in their order.
A forecast is put on the prior's grid, units and channel order by `Layout` (module `layout`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.dimensions import axis_kind, find_dimensions, standard_name
from xr_daisi.errors import PriorError, StateError, problem, raise_problems
from xr_daisi.geolocation import Geolocation, geolocation_of
from xr_daisi.longitudes import goes_round, is_monotonic, unrolled
from xr_daisi.transforms import TRANSFORMS
from xr_daisi.verticals import direction_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

__all__ = ["Normalization", "StateSpec", "VariableSpec", "spec_from_dataset"]


@dataclass(frozen=True)
class VariableSpec:
    """One variable of a state.

    Attributes
    ----------
    name : str
        Name in the template.
    standard_name, units, long_name : str or None
        CF attributes; None where the template has none.
    levels : tuple of float or None
        Values of the vertical coordinate, in channel order; None without vertical dimension.
    level_dim, level_units : str or None
        Name and units of the vertical dimension.
    level_positive : {"up", "down"} or None
        Direction of the vertical coordinate, where its attributes tell.
    """

    name: str
    standard_name: str | None = None
    units: str | None = None
    levels: tuple[float, ...] | None = None
    level_dim: str | None = None
    long_name: str | None = None
    level_units: str | None = None
    level_positive: str | None = None

    @property
    def size(self) -> int:
        """Number of channels."""
        return 1 if self.levels is None else len(self.levels)


@dataclass(frozen=True, eq=False)
class StateSpec:
    """Variables and grid of one state.

    Attributes
    ----------
    variables : tuple of VariableSpec
        In channel order.
    dims : tuple of str
        One or two space dimensions.
    coords : dict of str to ndarray
        Coordinate values of each space dimension, 1-D float64; index numbers where the template
        has no coordinate.
    axes : dict of str to str
        ``"latitude"``, ``"longitude"`` or ``"plain"`` for each space dimension.
    coord_units : dict of str to str or None
        Units of the coordinates.
    geolocation : tuple of ndarray or None
        Latitude and longitude, degrees, where they are fields; not part of `to_dict`.
    periodic : tuple of bool
        One entry per space dimension: whether the network takes it for a circle. Observations are
        interpolated across the seam of any longitudes that go round the globe.
    """

    variables: tuple[VariableSpec, ...]
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    axes: dict[str, str]
    periodic: tuple[bool, ...]
    coord_units: dict[str, str | None] = field(default_factory=dict)
    geolocation: Geolocation | None = None

    @property
    def channels(self) -> int:
        """Number of channels of a state."""
        return sum(v.size for v in self.variables)

    @property
    def space_shape(self) -> tuple[int, ...]:
        """Grid points along each space dimension."""
        return tuple(self.coords[d].size for d in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, *space_shape)``."""
        return (self.channels, *self.space_shape)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(v.name for v in self.variables)

    def variable(self, name: str) -> VariableSpec:
        """Return the variable called `name`."""
        for v in self.variables:
            if v.name == name:
                return v
        raise KeyError(name)

    def channel_slice(self, name: str) -> slice:
        """Return the channels of the variable called `name`."""
        start = 0
        for v in self.variables:
            if v.name == name:
                return slice(start, start + v.size)
            start += v.size
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "variables": [
                {
                    "name": v.name,
                    "standard_name": v.standard_name,
                    "long_name": v.long_name,
                    "units": v.units,
                    "levels": None if v.levels is None else list(v.levels),
                    "level_dim": v.level_dim,
                    "level_units": v.level_units,
                    # Left out where unknown: the card of a prior is as it always was.
                    **({"level_positive": v.level_positive} if v.level_positive else {}),
                }
                for v in self.variables
            ],
            "dims": list(self.dims),
            "coords": {d: self.coords[d].tolist() for d in self.dims},
            "axes": dict(self.axes),
            "coord_units": dict(self.coord_units),
            "periodic": list(self.periodic),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> StateSpec:
        """Build from `to_dict` output."""
        variables = tuple(
            VariableSpec(
                name=v["name"],
                standard_name=v.get("standard_name"),
                units=v.get("units"),
                levels=None if v.get("levels") is None else tuple(map(float, v["levels"])),
                level_dim=v.get("level_dim"),
                long_name=v.get("long_name"),
                level_units=v.get("level_units"),
                level_positive=v.get("level_positive"),
            )
            for v in entries["variables"]
        )
        return cls(
            variables=variables,
            dims=tuple(entries["dims"]),
            coords={d: np.asarray(entries["coords"][d], dtype=float) for d in entries["dims"]},
            axes=dict(entries["axes"]),
            periodic=tuple(bool(p) for p in entries["periodic"]),
            coord_units=dict(entries.get("coord_units", {})),
        )

    def to_dataset(self, **sizes: int) -> xr.Dataset:
        """Return a Dataset of zeros on this grid, with leading dimensions `sizes`."""
        import xarray as xr

        coords: dict[str, Any] = {}
        for d in self.dims:
            attrs = {k: v for k, v in (("units", self.coord_units.get(d)),) if v}
            if self.axes[d] != "plain":
                attrs["standard_name"] = self.axes[d]
            coords[d] = (d, self.coords[d], attrs)
        for kind, values in zip(("latitude", "longitude"), self.geolocation or (), strict=False):
            degrees = {"latitude": "degrees_north", "longitude": "degrees_east"}[kind]
            coords[kind] = (self.dims, values, {"standard_name": kind, "units": degrees})
        data = {}
        for v in self.variables:
            dims, shape = [*sizes], [*sizes.values()]
            if v.levels is not None and v.level_dim is not None:
                known = (("units", v.level_units), ("positive", v.level_positive))
                attrs = {k: a for k, a in known if a}
                coords[v.level_dim] = (v.level_dim, np.asarray(v.levels), attrs)
                dims, shape = [*dims, v.level_dim], [*shape, v.size]
            pairs = (
                ("standard_name", v.standard_name),
                ("long_name", v.long_name),
                ("units", v.units),
            )
            values = np.zeros((*shape, *self.space_shape), dtype=np.float32)
            data[v.name] = ((*dims, *self.dims), values, {k: a for k, a in pairs if a})
        return xr.Dataset(data, coords=coords)


@dataclass(frozen=True, eq=False)
class Normalization:
    """Affine map between physical and normalised states, after an optional transform.

    ``normalised = (transform(physical) - mean) / std``.

    Attributes
    ----------
    mean, std : ndarray
        Float64, broadcastable to ``(channels, *space)``: one value per channel, or per point.
    transforms : tuple of str or None
        Per channel, a name in `xr_daisi.transforms.TRANSFORMS`, or None.
    holes : ndarray of bool or None
        ``(channels, *space)``: where states are NaN by construction; None where that is unknown.
        Mean and deviation are numbers there too, without meaning.
    """

    mean: np.ndarray
    std: np.ndarray
    transforms: tuple[str | None, ...] = ()
    holes: np.ndarray | None = None

    def __post_init__(self) -> None:
        bad = ~(np.isfinite(self.std) & (self.std > 0))
        if bad.any() or not np.isfinite(self.mean).all():
            raise PriorError(
                problem(
                    "normalisation",
                    f"{int(bad.sum())} standard deviations that are zero, negative or not finite"
                    if bad.any()
                    else "a mean that is not finite",
                    "finite means and positive standard deviations",
                    'use normalization="variable", or leave out variables and points that never '
                    "vary",
                )
            )

    def normalize(self, physical: np.ndarray) -> np.ndarray:
        """Normalise states ``(..., channel, *space)``; returns a new array."""
        normalised: np.ndarray = (self._transformed(physical, forward=True) - self.mean) / self.std
        return normalised

    def denormalize(self, normalised: np.ndarray) -> np.ndarray:
        """Return physical states from normalised ones ``(..., channel, *space)``."""
        return self._transformed(normalised * self.std + self.mean, forward=False)

    def _transformed(self, x: np.ndarray, *, forward: bool) -> np.ndarray:
        if not any(self.transforms):
            return x
        x = np.array(x)
        axis = x.ndim - self.mean.ndim
        for channel, name in enumerate(self.transforms):
            if name:
                index = (slice(None),) * axis + (channel,)
                pair = TRANSFORMS[name]
                x[index] = (pair.forward if forward else pair.inverse)(x[index])
        return x


def spec_from_dataset(
    ds: xr.Dataset,
    variables: Sequence[str] | None = None,
    *,
    periodic: Sequence[str] | None = None,
    what: str = "template",
) -> StateSpec:
    """Describe the state that a Dataset holds; member and time dimensions are left out.

    Parameters
    ----------
    ds : xarray.Dataset
        Fields on a grid; values do not matter.
    variables : sequence of str, optional
        Variables of the state; all when None.
    periodic : sequence of str, optional
        Names of periodic space dimensions; when None, longitudes that go round the globe.
    what : str
        What the Dataset is, for messages.

    Returns
    -------
    StateSpec
        The description.

    Raises
    ------
    StateError
        For missing variables, dimensions that do not fit, or coordinates that are not finite and
        monotonic; longitudes may cross the seam of their convention.
    """
    names = [str(v) for v in (ds.data_vars if variables is None else variables)]
    missing = [v for v in names if v not in ds.data_vars]
    if missing or not names:
        raise StateError(
            problem(
                f"variables of the {what}",
                f"{', '.join(map(str, ds.data_vars)) or 'no data variables'}",
                f"{', '.join(missing) or 'at least one'}",
                "name variables that the Dataset has",
            )
        )
    dims = find_dimensions(ds, names, what=what)
    space = dims.space
    coords, units, axes, problems = {}, {}, {}, []
    for d in space:
        axes[d] = axis_kind(ds, d)
        if d in ds.coords:
            values = np.asarray(ds.coords[d].values)
            units[d] = ds.coords[d].attrs.get("units")
            if values.dtype.kind in "fiu":
                values = values.astype(float)
                values = unrolled(values) if axes[d] == "longitude" else values
            if not is_monotonic(values):
                problems.append(
                    problem(
                        f"coordinate {d!r} of the {what}",
                        "values that are not numbers, not finite or not monotonic",
                        "increasing or decreasing numbers",
                        f"sort them: ds.sortby({d!r})",
                    )
                )
                continue
            coords[d] = values
        else:
            coords[d] = np.arange(ds.sizes[d], dtype=float)
            units[d] = None
    unknown = [d for d in periodic or () if d not in space]
    if unknown:
        problems.append(
            problem("periodic", f"{unknown}", f"names among {list(space)}", "correct the names")
        )
    raise_problems(StateError, problems)
    wraps = tuple(
        d in periodic if periodic is not None else axes[d] == "longitude" and goes_round(coords[d])
        for d in space
    )
    specs = tuple(_variable_spec(ds, name, dims.level[name]) for name in names)
    plain = all(kind == "plain" for kind in axes.values())
    places = geolocation_of(ds, space) if plain else None
    return StateSpec(specs, space, coords, axes, wraps, units, places)


def _variable_spec(ds: xr.Dataset, name: str, level_dim: str | None) -> VariableSpec:
    da = ds[name]
    levels, level_units, level_positive = None, None, None
    if level_dim is not None:
        if level_dim in ds.coords:
            coordinate = ds.coords[level_dim]
            if coordinate.dtype.kind not in "fiu":
                raise StateError(
                    problem(
                        f"coordinate {level_dim!r}",
                        f"values of type {coordinate.dtype}",
                        "numbers",
                        "give levels as numbers with units",
                    )
                )
            levels = tuple(float(v) for v in coordinate.values)
            level_units = coordinate.attrs.get("units")
            level_positive = direction_of(coordinate.attrs, values=np.asarray(levels))
        else:
            levels = tuple(float(i) for i in range(ds.sizes[level_dim]))
    units = da.attrs.get("units")
    return VariableSpec(
        name=name,
        standard_name=standard_name(da),
        units=None if units is None else str(units),
        levels=levels,
        level_dim=level_dim,
        long_name=da.attrs.get("long_name"),
        level_units=level_units,
        level_positive=level_positive,
    )

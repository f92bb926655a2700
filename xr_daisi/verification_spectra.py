"""Isotropic power spectra of fields, and how far apart two of them are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.dimensions import Dimensions, axis_kind, find_dimensions
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem, raise_problems
from xr_daisi.optional_packages import needed
from xr_daisi.verification_pairs import By, find_pair, over_variables, with_units

__all__ = ["log_spectral_distance", "power_spectrum"]

EARTH_RADIUS = 6371.0
"""Mean radius, km."""


def power_spectrum(
    ds: xr.Dataset,
    variable: str | Sequence[str] | None = None,
    *,
    members: bool = False,
    window: str | None = None,
    detrend: str | None = None,
    corners: bool = False,
) -> xr.DataArray:
    """Spread the variance of fields over wavenumbers.

    Parameters
    ----------
    ds : xarray.Dataset
        Fields on one or two evenly spaced horizontal dimensions, with or without members, times
        and levels. Without window they are taken as periodic: a plane that closes on itself. A
        region of latitude and longitude is taken as a plane in km, exact along its middle
        latitude, and needs a window. A missing value makes the whole spectrum NaN.
    variable : str or sequence of str, optional
        Which one; the first when None.
    members : bool
        Keep the spectrum of each member; the mean over members otherwise. It is the mean of
        spectra, never the spectrum of the mean, which would lack the small scales.
    window : str, optional
        For fields that are not periodic: a window of `scipy.signal.windows`, such as ``"hann"``,
        for whose loss of variance the spectrum is corrected.
    detrend : {None, "linear"}
        Whether a linear trend is subtracted first; the mean always is.
    corners : bool
        On two dimensions, wavenumbers above the Nyquist wavenumber are known in some directions
        alone. They are left out unless True; the sum over all is the variance.

    Returns
    -------
    xarray.DataArray
        Spectral density on ``wavenumber`` (cycles per unit of the coordinates, 1 over the
        wavelength): its sum times the wavenumbers' step is the variance of the field about its
        mean (Parseval). Its units are those of the variance times those of the coordinates. On two
        dimensions waves of all directions with about the same wavenumber are added, so that an
        inertial range of slope -5/3 has that slope here. Lazy where the input is.

    Raises
    ------
    StateError
        For grids that are not evenly spaced, too small, or have missing coordinates.
    SettingsError
        For an unknown window or trend, or a region of the sphere without a window.
    ImportError
        Without the extra ``verify``.
    """
    if not isinstance(ds, xr.Dataset):
        raise DaisiTypeError(problem("fields", type(ds).__name__, "an xarray.Dataset"))
    if detrend not in (None, "linear"):
        expected = "None or 'linear'"
        raise SettingsError(problem("detrend", repr(detrend), expected))

    def calculate(name: str | None) -> xr.Dataset:
        there = [str(v) for v in ds.data_vars]
        if name is None and there:
            name = there[0]
        if name is None or name not in there:
            found = f"variables {', '.join(there) or 'none'}"
            raise StateError(problem("fields", found, repr(name) if name else "at least one"))
        dims = find_dimensions(ds, [name], what="fields")
        spectrum = _spectrum(ds[name], dims, window, detrend, corners)
        if dims.member is not None and not members:
            spectrum = spectrum.mean(dims.member, skipna=False).assign_attrs(spectrum.attrs)
        return xr.Dataset({"power_spectrum": spectrum})

    return over_variables(variable, calculate)["power_spectrum"]


def log_spectral_distance(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | Sequence[str] | None = None,
    *,
    by: By = "time",
    window: str | None = None,
    detrend: str | None = None,
) -> xr.DataArray:
    """Compare the spectrum of an ensemble with that of the truth.

    Parameters
    ----------
    ensemble, truth, variable, by
        As in `ensemble_scores`. Spectra are averaged over members and all dimensions that are not
        kept before they are compared.
    window, detrend
        As in `power_spectrum`.

    Returns
    -------
    xarray.DataArray
        Root mean square over wavenumbers of ``10 log10`` of the ratio of both spectra, in
        dB: 0 where they agree, 3 where one has twice the variance at all scales. The spectrum of
        one true field is noisy, so that a perfect ensemble does not reach 0. Lazy where the
        input is.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError, ImportError
        As `ensemble_scores` and `power_spectrum`.
    """

    def calculate(name: str | None) -> xr.Dataset:
        pair = find_pair(ensemble, truth, name, by=by)
        kept = [d for d in pair.kept if d not in pair.dims.space]
        if len(kept) < len(pair.kept):
            expected = "no horizontal dimension, along which the waves run"
            raise SettingsError(problem("by", repr(by), expected))
        decibels: list[xr.DataArray] = []
        for field in (pair.members, pair.truth):
            spectrum = _spectrum(field, pair.dims, window, detrend, False)
            over = [d for d in spectrum.dims if d not in (*kept, "wavenumber")]
            mean = spectrum.mean(over, skipna=False)
            decibels.append(xr.apply_ufunc(np.log10, mean, dask="allowed") * 10.0)
        squared = (decibels[0] - decibels[1]) ** 2
        distance = squared.mean("wavenumber", skipna=False) ** 0.5
        label = f"log spectral distance of {pair.long_name}"
        out = xr.Dataset({"log_spectral_distance": with_units(distance, label, "dB")})
        return pair.finished(out)

    return over_variables(variable, calculate)["log_spectral_distance"]


def _spectrum(
    field: xr.DataArray,
    dims: Dimensions,
    window: str | None,
    detrend: str | None,
    corners: bool,
) -> xr.DataArray:
    space = [d for d in map(str, field.dims) if d in dims.space]
    plain, unit = _as_plane(field, space, window)
    if plain.chunks is not None:
        plain = plain.chunk(dict.fromkeys(space, -1))
    power = _transformed(plain, space, window, detrend)
    axes = [np.asarray(power[f"freq_{d}"]) for d in space]
    shells, step = _shells(axes)
    limit = min(float(np.abs(axis).max()) for axis in axes) / step
    # The last ring of a plane is whole: it ends half a step above its number.
    whole = limit if len(axes) == 1 else limit - 0.5
    count = int(shells.max()) if corners else int(whole + 1e-6)
    cell = float(np.prod([abs(axis[1] - axis[0]) for axis in axes]))
    aggregate = needed("numpy_groupies").aggregate

    def summed(values: NDArray[Any]) -> NDArray[np.float64]:
        flat = values.reshape(*values.shape[: values.ndim - len(space)], -1)
        sums = aggregate(shells.ravel(), flat, axis=-1, func="sum", size=int(shells.max()) + 1)
        # The zeroth shell is the mean.
        return np.asarray(sums[..., 1 : count + 1] * (cell / step), dtype=np.float64)

    spectrum: xr.DataArray = xr.apply_ufunc(
        summed,
        power,
        input_core_dims=[[f"freq_{d}" for d in space]],
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": count}},
    )
    attrs = {"long_name": "wavenumber"}
    own = field.attrs.get("units")
    units = None
    if unit:
        attrs["units"] = _power(unit, -1)
        units = None if own is None else unit if own == "1" else f"{_power(own, 2)} {unit}"
    spectrum = spectrum.assign_coords(
        wavenumber=("wavenumber", step * np.arange(1, count + 1), attrs)
    )
    text = field.attrs.get("long_name", field.name)
    return with_units(spectrum, f"power spectral density of {text}", units)


def _power(unit: str, exponent: int) -> str:
    return f"{unit}{exponent}" if unit.isalpha() else f"({unit}){exponent}"


def _as_plane(
    field: xr.DataArray, space: list[str], window: str | None
) -> tuple[xr.DataArray, str | None]:
    """Give the field coordinates that waves can be counted in, and no others along them."""
    others = [c for c in field.coords if c not in space and set(field[c].dims) & set(space)]
    plain = field.drop_vars(others)
    problems = []
    kinds = {d: axis_kind(field, d) for d in space}
    for d in space:
        if d not in plain.coords:
            plain = plain.assign_coords({d: np.arange(plain.sizes[d], dtype=np.float64)})
        values = np.asarray(plain[d], dtype=np.float64)
        steps = np.diff(values)
        if values.size < 4:
            problems.append(problem(d, f"{values.size} points", "at least 4"))
        elif not (np.allclose(steps, steps[0], rtol=1e-3, atol=0.0) and steps[0] != 0):
            remedy = "interpolate to an even grid"
            problems.append(problem(d, "steps that differ", "evenly spaced points", remedy))
    units = {str(field[d].attrs.get("units", "")) for d in space if d in field.coords}
    sphere = set(kinds.values()) != {"plain"}
    if len(units) > 1 and not sphere:
        found = f"units {', '.join(map(repr, sorted(units)))}"
        problems.append(problem(" and ".join(space), found, "the same units along both"))
    raise_problems(StateError, problems)
    if not sphere:
        return plain, (units.pop() if units else "") or None
    if set(kinds.values()) != {"latitude", "longitude"}:
        found = f"dimensions {tuple(space)}"
        raise StateError(problem("fields", found, "both latitude and longitude, or a plane"))
    if window is None:
        expected = "a window, since a region of the sphere is not periodic"
        remedy = "window='hann', detrend='linear'; for a whole globe use spherical harmonics"
        raise SettingsError(problem("window", "None on latitude and longitude", expected, remedy))
    (y,) = (d for d in space if kinds[d] == "latitude")
    (x,) = (d for d in space if kinds[d] == "longitude")
    degree = EARTH_RADIUS * np.pi / 180.0
    middle = np.cos(np.deg2rad(float(plain[y].mean())))
    places = {y: np.asarray(plain[y]) * degree, x: np.asarray(plain[x]) * degree * middle}
    return plain.assign_coords(places), "km"


def _transformed(
    field: xr.DataArray, space: list[str], window: str | None, detrend: str | None
) -> xr.DataArray:
    """Return the power spectral density on all wavenumbers of all directions."""
    xrft = needed("xrft")
    try:
        with warnings.catch_warnings():
            # xrft calls what xarray has renamed.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            power: xr.DataArray = xrft.power_spectrum(
                field,
                dim=space,
                scaling="density",
                detrend=detrend or "constant",
                window=window,
                window_correction=window is not None,
            )
    except (NotImplementedError, ValueError, AttributeError, TypeError) as error:
        if window is None:
            raise
        expected = "a window of scipy.signal without parameters, such as 'hann'"
        raise SettingsError(problem("window", repr(window), expected)) from error
    return power


def _shells(axes: list[NDArray[np.float64]]) -> tuple[NDArray[np.int64], float]:
    """Return the ring around zero that each wavenumber belongs to, and the width of rings.

    Rings are as wide as the longest wave of the shorter side asks for; the first also takes the
    longer waves of the longer side, so that none is lost.
    """
    step = max(float(np.abs(axis[1] - axis[0])) for axis in axes)
    grids = np.meshgrid(*axes, indexing="ij")
    total = np.sqrt(sum(grid**2 for grid in grids))
    shells = np.maximum(np.rint(total / step), 1.0).astype(np.int64)
    return np.where(total < 1e-9 * step, 0, shells), step

"""Forecast models with the prognostic interface of Earth2Studio.

Written from its public documentation, for the form with dictionaries of coordinates:
``input_coords()`` and ``create_iterator(x, coords)``, which yields the initial state first. It has
been run with a stand-in of that form, not with the package.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from xr_daisi.dimensions import axis_kind, find_dimensions
from xr_daisi.ensembles import field_names, form_of, instant, time_text
from xr_daisi.errors import DaisiTypeError, ForecastError, problem, raise_problems

__all__ = ["Earth2StudioModel"]


class Earth2StudioModel:
    """A prognostic model of Earth2Studio as a forecast model.

    Parameters
    ----------
    prognostic : object
        With ``input_coords()`` and ``create_iterator(x, coords)``.
    variables : mapping, optional
        ``{name in the model: variable of the ensemble, or (variable, level)}``. When None, a
        variable without levels has its own name, one with levels its name and the level:
        ``t850`` is ``t`` at 850.
    device : str
        Where the model is run.

    Raises
    ------
    DaisiTypeError
        If it does not have these methods.

    Notes
    -----
    All that the model needs has to be in the ensemble, and nothing else of it is carried on. Models
    that need several times to start from are refused.

    References
    ----------
    NVIDIA Earth2Studio, user guide, "Prognostic Models".
    """

    def __init__(
        self,
        prognostic: Any,
        *,
        variables: Mapping[str, str | tuple[str, float]] | None = None,
        device: str = "cpu",
    ) -> None:
        lacking = [n for n in ("input_coords", "create_iterator") if not hasattr(prognostic, n)]
        if lacking:
            found = f"{type(prognostic).__name__} without {', '.join(lacking)}"
            expected = "a prognostic model of Earth2Studio"
            raise DaisiTypeError(problem("prognostic", found, expected))
        self.prognostic, self.device = prognostic, torch.device(device)
        self.variables = None if variables is None else dict(variables)
        if hasattr(prognostic, "to"):
            self.prognostic = prognostic.to(self.device)

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON: weights do not belong to it."""
        kind = type(self.prognostic)
        return {
            "model": "earth2studio",
            "prognostic": f"{kind.__module__}.{kind.__qualname__}",
            "variables": {k: list(v) if isinstance(v, tuple) else v for k, v in self._given()},
        }

    def _given(self) -> list[tuple[str, str | tuple[str, float]]]:
        return sorted((self.variables or {}).items())

    def __repr__(self) -> str:
        return f"Earth2StudioModel({type(self.prognostic).__name__})"

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Let the model iterate until the time is reached.

        Raises
        ------
        ForecastError
            If variables or grid are not those of the model, or it passes over the time.
        """
        form = form_of(ensemble)
        inner = form.inner(ensemble)
        coords = self.prognostic.input_coords()
        channels = self._channels(inner, coords)
        latitude, longitude = self._grid(inner, coords)
        fields = [
            self._field(inner, channel, form.member, latitude, longitude) for channel in channels
        ]
        x = torch.from_numpy(np.stack(fields, axis=1))[:, None, None].float().to(self.device)
        start = instant(ensemble, form.time)
        given = OrderedDict(
            batch=np.arange(x.shape[0]),
            time=np.array([start.astype("datetime64[ns]")]),
            lead_time=np.array([np.timedelta64(0, "h")]),
            variable=np.asarray(coords["variable"]),
            lat=np.asarray(coords["lat"]),
            lon=np.asarray(coords["lon"]),
        )
        span = until.astype("datetime64[us]") - start
        with torch.no_grad():
            for step in self.prognostic.create_iterator(x, given):
                y, where = step
                lead = np.asarray(where["lead_time"]).astype("timedelta64[us]")[-1]
                if lead >= span:
                    break
            else:
                lead = np.timedelta64("NaT", "us")
        if lead != span:
            found = f"a forecast at {time_text(start + lead)}" if lead == lead else "no more steps"
            raise ForecastError(problem(f"{self!r}", found, f"one at {time_text(until)}"))
        names = [str(v) for v in where["variable"]]
        values = y.cpu().numpy().reshape(x.shape[0], -1, len(names), *y.shape[-2:])[:, -1]
        out = form.at(inner, until).copy(deep=True)
        for name, channel in zip(map(str, coords["variable"]), channels, strict=True):
            if name not in names:
                found = f"variables {', '.join(names)}"
                raise ForecastError(problem(f"{self!r}", found, f"also {name}"))
            self._put(out, channel, form.member, values[:, names.index(name)], latitude, longitude)
        return form.outer(out)

    def _channels(self, ds: xr.Dataset, coords: Any) -> list[tuple[str, str | None, int]]:
        """Variable, level dimension and level number of each of the model's variables."""
        lead = np.atleast_1d(coords["lead_time"])
        if lead.size != 1:
            found = f"{lead.size} times to start from"
            raise ForecastError(problem(f"{self!r}", found, "a model that starts from one"))
        dims = find_dimensions(ds, field_names(ds))
        known: dict[str, tuple[str, str | None, int]] = {}
        for name, level in dims.level.items():
            if level is None:
                known[name] = (name, None, 0)
            for i, value in enumerate(ds[level].values if level else ()):
                known[f"{name}{value:g}"] = (name, level, i)
        for label, target in (self.variables or {}).items():
            name, value = target if isinstance(target, tuple) else (target, None)
            level = dims.level.get(name)
            if name in ds and level is not None and value is not None:
                where = np.flatnonzero(ds[level].values == value)
                if where.size:
                    known[label] = (name, level, int(where[0]))
            elif name in ds and level is None:
                known[label] = (name, None, 0)
        wanted = [str(v) for v in coords["variable"]]
        missing = [v for v in wanted if v not in known]
        if missing:
            expected = f"also {', '.join(missing)}"
            remedy = "say which they are: variables={'t850': ('t', 850)}"
            raise ForecastError(
                problem(f"ensemble for {self!r}", f"{', '.join(known)}", expected, remedy)
            )
        return [known[v] for v in wanted]

    def _grid(self, ds: xr.Dataset, coords: Any) -> tuple[str, str]:
        dims = find_dimensions(ds, field_names(ds)).space
        kinds = {axis_kind(ds, d): d for d in dims}
        problems = []
        for kind, key in (("latitude", "lat"), ("longitude", "lon")):
            wanted = np.asarray(coords[key], dtype=float)
            given = ds[kinds[kind]].values.astype(float) if kind in kinds else np.zeros(0)
            if given.shape != wanted.shape or not np.allclose(given, wanted, atol=1e-4):
                expected = f"{wanted.size} from {wanted.flat[0]:g} to {wanted.flat[-1]:g}"
                found = f"{given.size}"
                found += f" from {given[0]:g} to {given[-1]:g}" if given.size else ""
                problems.append(
                    problem(f"ensemble for {self!r}, {kind}", found, expected, "sort it like that")
                )
        raise_problems(ForecastError, problems)
        return kinds["latitude"], kinds["longitude"]

    @staticmethod
    def _field(
        ds: xr.Dataset,
        channel: tuple[str, str | None, int],
        member: str | None,
        latitude: str,
        longitude: str,
    ) -> np.ndarray:
        name, level, index = channel
        da = ds[name].isel({level: index} if level else {})
        time = [d for d in da.dims if d not in (member, latitude, longitude)]
        values = da.isel(dict.fromkeys(time, 0)).transpose(..., latitude, longitude).values
        return values if member in da.dims else values[None]

    @staticmethod
    def _put(
        ds: xr.Dataset,
        channel: tuple[str, str | None, int],
        member: str | None,
        values: np.ndarray,
        latitude: str,
        longitude: str,
    ) -> None:
        name, level, index = channel
        da = ds[name]
        dims = [d for d in (member, latitude, longitude) if d is not None]
        given = xr.DataArray(values if member else values[0], dims=dims)
        place = {level: index} if level else {}
        rest = [d for d in da.dims if d not in (*dims, level)]
        target = da[place]
        target.data[...] = given.expand_dims(rest).transpose(*target.dims).values

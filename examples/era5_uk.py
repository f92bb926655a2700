"""ERA5 2 m temperature over the British Isles: train, choose settings, assimilate, score once.

Real data from end to end::

    python examples/era5_uk.py --data era5-2mt-2019-03-uk.nc --out era5-uk

Without ``--data`` the field is fetched as the tutorial of xarray does (needs a network, cfgrib and
pooch). March 2019, hourly, 33 x 49 points:

* 1-18 March trains the prior;
* 19-22 March chooses the sampling settings, which are written to the prior's card;
* 24-31 March is scored once, every 12 hours, with the settings of the card; scores are pooled over
  all times and points.

The forecast of a time is an ensemble of the fields of the same hour on each of the 10 days before.
The observations are a CF ``timeSeries`` file of 50 stations off the grid nodes: the truth with
errors of 0.4 to 0.6 K, each value's own in the file. Ten stations are withheld; what the analysis
is worth there is what a user without a truth can know.

Contains modified Copernicus Climate Change Service information (2019).
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.plotting import plot_analysis, plot_feedback
from xr_daisi.verification import ensemble_scores, overall_scores, score_table

TRAINING = slice("2019-03-01", "2019-03-18")
TUNING = np.arange("2019-03-19", "2019-03-23", np.timedelta64(12, "h"), dtype="datetime64[ns]")
TEST = np.arange("2019-03-24", "2019-04-01", np.timedelta64(12, "h"), dtype="datetime64[ns]")
STATIONS, WITHHELD = 50, 10
NAMES = [f"S{number:02d}" for number in range(STATIONS)]
STEPS = 10
# The default, which chooses for itself, and the flow alone. A prior of 18 days is too sure of
# itself: guidance without the help of the ensemble's covariances is too weak.
CANDIDATES: list[dict[str, Any]] = [
    {"t_min": "auto"},
    *(
        {"t_min": t_min, "strength": strength}
        for t_min, strength in itertools.product((0.03, 0.1), (1.0, 1.5))
    ),
]


def load(path: Path | None) -> xr.Dataset:
    """Open the field, as a GRIB decoder writes it."""
    if path is None:
        return xr.tutorial.open_dataset("era5-2mt-2019-03-uk.grib")
    return xr.open_dataset(path)


def train(field: xr.Dataset, steps: int, checkpoint: Path) -> xr_daisi.FlowPrior:
    """Train on 1-18 March; two fields tell the network where it is."""
    position = {
        f"{d} as a field": field[d].drop_vars(d).reset_coords(drop=True)
        for d in ("latitude", "longitude")
    }
    return xr_daisi.train_prior(
        field.sel(time=TRAINING),
        ["t2m"],
        steps=steps,
        # The days nearest to the test matter: all but 17 hours train, for a number of steps at
        # which a longer validation showed no overfitting yet.
        validation=0.04,
        patience=None,
        batch_size=16,
        width=32,
        multipliers=(1, 2, 2),
        patch=2,
        static=xr.Dataset(position),
        dropout=0.15,
        normalization="point-mean",
        checkpoint=checkpoint,
        name="uk-t2m",
        description="ERA5 hourly 2 m temperature over the British Isles, 1-18 March 2019",
        license="Licence to use Copernicus Products",
        attribution="Contains modified Copernicus Climate Change Service information (2019)",
    )


def forecasts(field: xr.Dataset, times: np.ndarray) -> xr.Dataset:
    """Members are the fields of the same hour on each of the 10 days before."""
    t2m = field[["t2m"]].drop_vars(["number", "step", "surface", "valid_time"], errors="ignore")
    days = [np.timedelta64(day, "D") for day in range(1, 11)]
    members = [t2m.sel(time=times - day).assign_coords(time=times) for day in days]
    ensemble = xr.concat(members, dim="member").assign_coords(member=np.arange(1, 11))
    ensemble["member"].attrs = {"standard_name": "realization", "long_name": "days before"}
    return ensemble


def stations(
    field: xr.Dataset,
    times: np.ndarray,
    seed: int = 1,
    *,
    withheld: int = WITHHELD,
    error: tuple[float, float] = (0.4, 0.6),
) -> xr.Dataset:
    """Observe the truth at stations off the grid nodes, as a CF time series of stations.

    Errors are drawn from the given range, K; `withheld` stations follow the others.
    """
    parts = []
    for count, rng in (
        (STATIONS - WITHHELD, np.random.default_rng(seed)),
        (withheld, np.random.default_rng([seed, 1])),
    ):
        latitude = rng.uniform(float(field.latitude.min()), float(field.latitude.max()), count)
        longitude = rng.uniform(float(field.longitude.min()), float(field.longitude.max()), count)
        noise = rng.standard_normal((times.size, count)).T
        parts.append((latitude, longitude, noise, rng.uniform(*error, noise.shape)))
    latitude, longitude, noise, deviation = (np.concatenate(p) for p in zip(*parts, strict=True))
    places = {
        "latitude": xr.DataArray(latitude, dims="station"),
        "longitude": xr.DataArray(longitude, dims="station"),
    }
    exact = field.t2m.sel(time=times).interp(places, method="linear").transpose("station", "time")
    name = {"standard_name": "air_temperature", "units": "K"}
    return xr.Dataset(
        {
            "t2m": (
                ("station", "time"),
                exact.values + deviation * noise,
                {**name, "long_name": "2 m temperature", "ancillary_variables": "t2m_error"},
            ),
            "t2m_error": (
                ("station", "time"),
                deviation,
                {"standard_name": "air_temperature standard_error", "units": "K"},
            ),
        },
        coords={
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": (
                "station",
                latitude,
                {"standard_name": "latitude", "units": "degrees_north"},
            ),
            "longitude": (
                "station",
                longitude,
                {"standard_name": "longitude", "units": "degrees_east"},
            ),
            "station_name": (
                "station",
                NAMES[: latitude.size],
                {"cf_role": "timeseries_id", "long_name": "station"},
            ),
        },
        attrs={"featureType": "timeSeries", "Conventions": "CF-1.11"},
    )


def choose_settings(prior: xr_daisi.FlowPrior, field: xr.Dataset) -> xr_daisi.FlowPrior:
    """Return the prior with the settings of the lowest CRPS on 19-22 March."""
    forecast, obs = forecasts(field, TUNING), stations(field, TUNING, seed=2)
    used, _ = obs.daisi.withhold(NAMES[-WITHHELD:])
    best, chosen = np.inf, CANDIDATES[0]
    for settings in CANDIDATES:
        analysis = forecast.daisi.assimilate(used, prior, steps=STEPS, solver="heun", **settings)
        scores = overall_scores(
            ensemble_scores(analysis, field[["t2m"]].sel(time=TUNING)), pooled=True
        )
        print(
            f"  {settings}: RMSE {scores['rmse']:.3f} K, CRPS {scores['crps']:.3f} K, "
            f"SSR {scores['ssr']:.2f}",
            flush=True,
        )
        if scores["crps"] < best:
            best, chosen = scores["crps"], settings
    print(f"chosen on 19-22 March: {chosen}", flush=True)
    return prior.with_settings(steps=STEPS, solver="heun", **chosen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="NetCDF or GRIB file; fetched when left out")
    parser.add_argument("--out", type=Path, default=Path("era5-uk"), help="folder for results")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps of the training")
    parser.add_argument("--prior", type=Path, help="use this trained prior, with its settings")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))))
    arguments.out.mkdir(parents=True, exist_ok=True)
    field = load(arguments.data)

    if arguments.prior is None:
        path = arguments.out / "uk-t2m.safetensors"
        prior = train(field, arguments.steps, arguments.out / "training.checkpoint")
        prior = choose_settings(prior, field)
        prior.save(path, overwrite=True)
    else:
        path = arguments.prior
    prior = xr_daisi.load_prior(path)
    print(prior, flush=True)

    path = arguments.out / "stations.nc"
    stations(field, TEST).to_netcdf(path)
    used, withheld = xr_daisi.read_observations(path).daisi.withhold(NAMES[-WITHHELD:])
    forecast, truth = forecasts(field, TEST), field[["t2m"]].sel(time=TEST)
    print(forecast.daisi.check(used, prior), flush=True)

    started = time.perf_counter()
    analysis = forecast.daisi.assimilate(used, prior)
    seconds = time.perf_counter() - started
    alone = forecast.daisi.assimilate(used, prior, t_min=0.0)
    ensembles = {"forecast": forecast, "analysis": analysis, "sampling without forecast": alone}
    table = score_table(ensembles, truth, pooled=True)
    print(table)
    rmse = {
        name: overall_scores(ensemble_scores(ensembles[name], truth), pooled=True)["rmse"]
        for name in ("forecast", "analysis")
    }
    print(
        f"analysis RMSE / background RMSE: {rmse['analysis'] / rmse['forecast']:.3f}; "
        f"{seconds:.0f} s for {TEST.size} analyses\n"
    )
    seen = forecast.daisi.feedback(used, analysis)
    unseen = forecast.daisi.feedback(withheld, analysis, withheld=True)
    summaries = {
        f"{used.sizes['station']} stations that were used": xr_daisi.feedback_summary(seen),
        f"{withheld.sizes['station']} stations that were withheld": xr_daisi.feedback_summary(
            unseen, status="withheld"
        ),
    }
    told = "\n\n".join(f"{k}:\n{xr_daisi.summary_table(v)}" for k, v in summaries.items())
    print(told)
    (arguments.out / "scores.txt").write_text(f"{table}\n\n{told}\n", encoding="utf-8")
    analysis.to_netcdf(arguments.out / "analysis.nc")
    seen.to_netcdf(arguments.out / "feedback.nc")
    unseen.to_netcdf(arguments.out / "feedback-withheld.nc")
    last = {"time": -1}
    figure = plot_analysis(
        forecast.isel(last),
        analysis.isel(last),
        used.isel(last),
        truth.isel(last),
        "t2m",
        title=f"2 m temperature, {str(TEST[-1])[:16]} UTC",
    )
    figure.savefig(arguments.out / "analysis.png", dpi=130)
    plot_feedback(seen, "t2m", title="Used").savefig(arguments.out / "used.png", dpi=130)
    plot_feedback(unseen, "t2m", title="Withheld").savefig(arguments.out / "withheld.png", dpi=130)
    print(f"written to {arguments.out}/")


if __name__ == "__main__":
    main()

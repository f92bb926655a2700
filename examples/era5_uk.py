"""ERA5 2 m temperature over the British Isles: train, choose settings, assimilate, score once.

Real data from end to end::

    python examples/era5_uk.py --data era5-2mt-2019-03-uk.nc --out era5-uk

Without ``--data`` the field is fetched as the tutorial of xarray does (needs a network, cfgrib and
pooch). March 2019, hourly, 33 x 49 points:

* 1-18 March trains the prior;
* 19-22 March chooses the sampling settings, which are written to the prior's card;
* 24-31 March is scored once, every 12 hours, with the settings of the card; scores are pooled over
  all times and points.

The forecast of a time is an ensemble of the fields of the same hour on each of the 10 days before;
the observations are the truth at 40 points off the grid nodes with an error of 0.5 K.

Contains modified Copernicus Climate Change Service information (2019).
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.plotting import plot_analysis
from xr_daisi.verification import ensemble_scores, overall_scores, score_table

TRAINING = slice("2019-03-01", "2019-03-18")
TUNING = np.arange("2019-03-19", "2019-03-23", np.timedelta64(12, "h"), dtype="datetime64[ns]")
TEST = np.arange("2019-03-24", "2019-04-01", np.timedelta64(12, "h"), dtype="datetime64[ns]")
ERROR = 0.5
STEPS = 10
# A prior of 18 days is too sure of itself: its guidance is too weak, and may be strengthened.
CANDIDATES = [
    {"t_min": t_min, "strength": strength}
    for t_min, strength in itertools.product((0.03, 0.1), (1.0, 1.5))
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


def observations(field: xr.Dataset, times: np.ndarray, seed: int = 1) -> xr.Dataset:
    """Observe the truth at 40 points off the grid nodes, with an error of 0.5 K."""
    rng = np.random.default_rng(seed)
    count = 40
    latitude = rng.uniform(float(field.latitude.min()), float(field.latitude.max()), count)
    longitude = rng.uniform(float(field.longitude.min()), float(field.longitude.max()), count)
    places = {
        "latitude": xr.DataArray(latitude, dims="station"),
        "longitude": xr.DataArray(longitude, dims="station"),
    }
    exact = field.t2m.sel(time=times).interp(places, method="linear")
    noisy = exact.values + ERROR * rng.standard_normal(exact.shape)
    return xr.Dataset(
        {"t2m": (("time", "station"), noisy, {"units": "K"})},
        coords={
            "time": times,
            "latitude": ("station", latitude, {"units": "degrees_north"}),
            "longitude": ("station", longitude, {"units": "degrees_east"}),
        },
    )


def choose_settings(prior: xr_daisi.FlowPrior, field: xr.Dataset) -> xr_daisi.FlowPrior:
    """Return the prior with the settings of the lowest CRPS on 19-22 March."""
    forecast, obs = forecasts(field, TUNING), observations(field, TUNING, seed=2)
    best, chosen = np.inf, {}
    for settings in CANDIDATES:
        analysis = forecast.daisi.assimilate(obs, prior, obs_error=ERROR, steps=STEPS, **settings)
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
    return prior.with_settings(steps=STEPS, **chosen)


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

    forecast, obs = forecasts(field, TEST), observations(field, TEST)
    truth = field[["t2m"]].sel(time=TEST)
    started = time.perf_counter()
    analysis = forecast.daisi.assimilate(obs, prior, obs_error=ERROR)
    seconds = time.perf_counter() - started
    alone = forecast.daisi.assimilate(obs, prior, obs_error=ERROR, t_min=0.0)
    ensembles = {"forecast": forecast, "analysis": analysis, "sampling without forecast": alone}
    table = score_table(ensembles, truth, pooled=True)
    print(table)
    rmse = {
        name: overall_scores(ensemble_scores(ensembles[name], truth), pooled=True)["rmse"]
        for name in ("forecast", "analysis")
    }
    print(
        f"analysis RMSE / background RMSE: {rmse['analysis'] / rmse['forecast']:.3f}; "
        f"{seconds:.0f} s for {TEST.size} analyses"
    )
    (arguments.out / "scores.txt").write_text(table + "\n", encoding="utf-8")
    analysis.to_netcdf(arguments.out / "analysis.nc")
    forecast.daisi.feedback(obs, analysis).to_netcdf(arguments.out / "feedback.nc")
    last = {"time": -1}
    figure = plot_analysis(
        forecast.isel(last),
        analysis.isel(last),
        obs.isel(last),
        truth.isel(last),
        "t2m",
        title=f"2 m temperature, {str(TEST[-1])[:16]} UTC",
    )
    figure.savefig(arguments.out / "analysis.png", dpi=130)
    print(f"written to {arguments.out}/")


if __name__ == "__main__":
    main()

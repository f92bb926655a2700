"""The command ``xr-daisi check``: the trust report of files."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from xr_daisi.cli_arguments import Flag, Paths, Whole, check_apart
from xr_daisi.cli_reading import Reading
from xr_daisi.errors import DaisiError, problem

__all__ = ["check"]


def check(
    forecast: Path,
    obs: Path | None = None,
    /,
    *,
    prior: str | None = None,
    more_obs: Paths = (),
    html: Path | None = None,
    members: Whole = 4,
    reading: Reading | None = None,
    seed: Whole = 0,
    device: str = "auto",
    dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    batch: Whole | None = None,
    overwrite: Flag = False,
    verbose: Flag = False,
) -> int:
    """Say whether a prior fits a forecast and its observations, line by line.

    Parameters
    ----------
    forecast
        The ensemble (NetCDF or Zarr).
    obs
        The observations (NetCDF, Zarr, CSV or Parquet).
    prior
        A prior's file, URL or registered name; when left out, the registered one that fits.
    more_obs
        A further file of observations; may be repeated.
    html
        Also write the report as a page here.
    members
        How many members go there and back; the latent norm is that of all members.
    seed
        Of noise.
    device
        auto, cpu, cuda, cuda:1, ...
    dtype
        Precision of solver and network; bfloat16 concerns the network alone.
    batch
        Members pushed through the network at once.
    overwrite
        Replace an existing page.
    verbose
        Log what happens, and show tracebacks.

    Returns
    -------
    int
        1 where a line fails, else 0.
    """
    from xr_daisi.check import check as look
    from xr_daisi.files import check_place, open_file
    from xr_daisi.formats import read_observations
    from xr_daisi.output_files import check_free, replacing

    remedy = "pass --overwrite"
    observed = [path for path in (obs, *more_obs) if path is not None]
    if html is not None:
        if html.suffix not in (".html", ".htm"):
            raise DaisiError(problem("--html", f"ending {html.suffix!r}", ".html", "rename it"))
        check_apart([forecast, *observed], [html])
        check_place(html)
        check_free(html, overwrite=overwrite, remedy=remedy)
    with ExitStack() as files:
        background = files.enter_context(open_file(forecast))
        datasets = [files.enter_context(read_observations(path)) for path in observed]
        report = look(
            background,
            datasets or None,
            prior,
            members=members,
            seed=seed,
            device=device,
            dtype=dtype,
            batch="auto" if batch is None else batch,
            **(reading or Reading()).keywords(),
        )
    print(report)
    if html is not None:
        with replacing(html, overwrite=overwrite, remedy=remedy) as temporary:
            temporary.write_text(report.to_html(), encoding="utf-8")
        print(f"written to {html}")
    return 1 if report.verdict == "fail" else 0

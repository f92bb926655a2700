"""Quality of observed values: flags, gross bounds and the user's choice, one verdict for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import ObservationError, problem
from xr_daisi.flag_meanings import accepted_codes, flag_codes, is_good
from xr_daisi.observation_errors import ancillary, error_variable
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_status import Status
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FlagWarning", "companions", "flag_variable", "verdicts_of"]

SUFFIXES = ("_quality", "_qc", "_QC", "_flag")

TEXT = np.dtype("U64")
"""Of flags that are texts."""


class FlagWarning(UserWarning):
    """A quality flag has a meaning that is not known: values with it are not used."""


def flag_variable(ds: xr.Dataset, name: str) -> str | None:
    """Name of the variable that holds the quality flags of another.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.

    Returns
    -------
    str or None
        From its ``ancillary_variables``, else ``<name>_quality`` or ``<name>_qc``; None where there
        is none.
    """
    present = [name + suffix for suffix in SUFFIXES if name + suffix in ds.variables]
    found = ancillary(ds, name, ("status_flag", "quality_flag"))
    return found or (present[0] if present else None)


def companions(ds: xr.Dataset, name: str) -> set[str]:
    """Names of the variables that say something about another: errors, flags, footprints.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.
    """
    endings = (*SUFFIXES, "_error", "_error_covariance", "_error_correlation", "_use", "_footprint")
    found = {name + ending for ending in endings if name + ending in ds.variables}
    return found | {n for n in (flag_variable(ds, name), error_variable(ds, name)) if n}


def verdicts_of(ds: xr.Dataset, name: str, options: ObservationOptions, subject: str) -> Any:
    """Decide for every value whether it may be used; values themselves matter to bounds alone.

    Parameters
    ----------
    ds : Dataset
        Observations, in memory or not.
    name : str
        The observed variable.
    options : ObservationOptions
        Accepted flags and bounds.
    subject : str
        Name for messages.

    Returns
    -------
    xarray.Variable or int
        `Status` along some of the variable's dimensions, lazy where its ingredients are; USED
        alone where there is nothing to decide.

    Raises
    ------
    ObservationError
        Where flags, choice or bounds do not fit the variable.

    Warns
    -----
    FlagWarning
        Where a flag's meaning is not known.
    """
    # From the weakest reason to the strongest.
    verdict: Any = np.int8(Status.USED)
    for bad, status in (
        (_out_of_bounds(ds, name, options), Status.OUT_OF_BOUNDS),
        (_badly_flagged(ds, name, options, subject), Status.BAD_QUALITY),
        (_left_out(ds, name, subject), Status.LEFT_OUT),
    ):
        if bad is not None:
            codes = bad.astype(np.int8)
            verdict = codes * np.int8(status) + (1 - codes) * verdict
    return verdict


def _fitting(ds: xr.Dataset, name: str, other: str, subject: str) -> xr.Variable:
    """Return a variable whose dimensions are among another's."""
    variable = ds.variables[other]
    extra = [d for d in variable.dims if d not in ds.variables[name].dims]
    if extra:
        found = f"dimensions {variable.dims}"
        expected = f"some of {ds.variables[name].dims}"
        raise ObservationError(problem(f"{subject}, {other}", found, expected))
    return variable


def _left_out(ds: xr.Dataset, name: str, subject: str) -> xr.Variable | None:
    if f"{name}_use" not in ds.variables:
        return None
    use = _fitting(ds, name, f"{name}_use", subject)
    if use.dtype.kind not in "biuf":
        expected = "1 (or True) where a value may be used, else 0"
        raise ObservationError(
            problem(f"{subject}, {name}_use", f"values of type {use.dtype}", expected)
        )
    return use != 1


def _out_of_bounds(ds: xr.Dataset, name: str, options: ObservationOptions) -> xr.Variable | None:
    variable = ds.variables[name]
    low, high = options.of_variable("bounds", name) or _valid_range(variable)
    if low is None and high is None:
        return None
    outside: Any = False
    if low is not None:
        outside = outside | (variable < low)
    if high is not None:
        outside = outside | (variable > high)
    result: xr.Variable = outside
    return result


def _valid_range(variable: xr.Variable) -> tuple[float | None, float | None]:
    """Gross bounds from attributes; of packed data, those of its own type are packed values."""
    attrs = {**variable.encoding, **variable.attrs}
    pair: Any = np.asarray(attrs.get("valid_range", [])).reshape(-1)
    if pair.size != 2:
        pair = [attrs.get("valid_min"), attrs.get("valid_max")]
    try:
        low, high = (None if v is None else float(v) for v in pair)
    except (TypeError, ValueError):
        return None, None
    scale, offset = (variable.encoding.get(key) for key in ("scale_factor", "add_offset"))
    if scale is None and offset is None:
        return low, high
    # As the NetCDF Users Guide has it: bounds of a wider type than the packed data are unpacked.
    packed = np.dtype(variable.encoding.get("dtype") or np.int16)
    types = [np.asarray(v).dtype for v in pair if v is not None]
    if any(t.kind == "f" and (packed.kind != "f" or t.itemsize > packed.itemsize) for t in types):
        return low, high
    scale, offset = (float(default if v is None else v) for v, default in ((scale, 1), (offset, 0)))
    unpacked = [None if v is None else v * scale + offset for v in (low, high)]
    return (unpacked[1], unpacked[0]) if scale < 0 else (unpacked[0], unpacked[1])


def _badly_flagged(
    ds: xr.Dataset, name: str, options: ObservationOptions, subject: str
) -> xr.Variable | None:
    other = flag_variable(ds, name)
    accepted = options.of_variable("quality", name)
    if other is None:
        if accepted is None:
            return None
        found = f"no quality flag of {name!r} among {sorted(map(str, ds.variables))}"
        expected = f"a variable '{name}_quality', or one that ancillary_variables names"
        raise ObservationError(problem(subject, found, expected, "or leave out quality=..."))
    flags = _fitting(ds, name, other, subject)
    label = f"{subject}, {other}"
    if flags.dtype.kind == "O":
        flags = _as_texts(flags, label)
    if flags.dtype.kind not in "biufSU":
        raise ObservationError(problem(label, f"values of type {flags.dtype}", "integers"))
    bad = _unaccepted(flags, accepted, label, name)
    # Without flag a value is as good as one that nobody checked.
    if flags.dtype.kind in "SU":
        return bad & (flags.astype(str) != "")
    return bad & ~flags.isnull() if flags.dtype.kind == "f" else bad


def _unaccepted(
    flags: xr.Variable, accepted: Sequence[str | int] | None, subject: str, name: str
) -> xr.Variable:
    meanings = [m.lower() for m in str(flags.attrs.get("flag_meanings", "")).split()]
    texts = flags.dtype.kind in "SU"
    given = {key: flags.attrs.get(key) for key in ("flag_values", "flag_masks")}
    bits = given["flag_masks"] is not None
    values, masks = (
        flag_codes(listed, key, subject, texts=texts, bits=bits) for key, listed in given.items()
    )
    codes = values or masks
    for label, listed in (("flag_values", values), ("flag_masks", masks)):
        if listed and meanings and len(listed) != len(meanings):
            found = f"{len(listed)} {label} and {len(meanings)} flag_meanings"
            raise ObservationError(problem(subject, found, "as many of the one as of the other"))
    remedy = f"pass quality={{{name!r}: [accepted values]}}"
    if accepted is not None:
        wanted = accepted_codes(accepted, codes, meanings, subject, texts=texts)
        return _without(flags, wanted, masks, values)
    if not meanings or not codes:
        found = "quality flags without flag_values and flag_meanings"
        raise ObservationError(problem(subject, found, "both, to tell good from bad", remedy))
    verdicts = [is_good(meaning) for meaning in meanings]
    unknown = [m for m, good in zip(meanings, verdicts, strict=True) if good is None]
    if unknown:
        found = f"the meanings {unknown}, taken as not good"
        warn_user(FlagWarning(problem(subject, found, "meanings such as 'good' or 'bad'", remedy)))
    good = [code for code, verdict in zip(codes, verdicts, strict=True) if verdict]
    return _without(flags, good, masks, values)


def _without(
    flags: xr.Variable, good: Iterable[Any], masks: Sequence[Any], values: Sequence[Any]
) -> xr.Variable:
    """Where flags are not among the good ones; of bit masks, where another bit is set."""
    if not masks or flags.dtype.kind in "SU":
        kind = flags.dtype
        codes = np.asarray([str(g) if kind.kind in "SU" else g for g in good])
        text = flags.astype(str) if kind.kind in "SU" else flags
        inside: xr.Variable = text.isin(codes) if hasattr(text, "isin") else _isin(text, codes)
        return ~inside
    bits = flags.fillna(0).astype(np.int64) if flags.dtype.kind == "f" else flags.astype(np.int64)
    chosen = {int(g) for g in good}
    if values:
        # Fields of several bits: the flag is bad where any field holds a value that is not good.
        bad: Any = False
        for mask, value in zip(masks, values, strict=True):
            if int(value) not in chosen:
                bad = bad | ((bits & int(mask)) == int(value))
        outcome: xr.Variable = bits != bits if bad is False else bad
        return outcome
    others = 0
    for mask in masks:
        if int(mask) not in chosen:
            others |= int(mask)
    result: xr.Variable = (bits & others) != 0
    return result


def _isin(flags: xr.Variable, codes: np.ndarray) -> xr.Variable:
    import xarray as xr

    found: xr.Variable = xr.DataArray(flags).isin(codes).variable
    return found


def _as_texts(flags: xr.Variable, subject: str) -> xr.Variable:
    """Texts in memory, or of a file, that come as objects; blank where there are none."""
    import xarray as xr

    def convert(given: np.ndarray) -> np.ndarray:
        parts: list[str] = []
        for one in given.reshape(-1).tolist():
            if one is None or one != one:
                parts.append("")
            elif isinstance(one, (str, bytes, int, float)):
                parts.append(one.decode() if isinstance(one, bytes) else str(one))
            else:
                found = f"values of type {type(one).__name__}"
                raise ObservationError(problem(subject, found, "integers, or texts"))
        return np.asarray(parts, dtype=TEXT).reshape(given.shape)

    converted: xr.Variable = xr.apply_ufunc(
        convert, flags, dask="parallelized", output_dtypes=[TEXT], keep_attrs=True
    )
    return converted

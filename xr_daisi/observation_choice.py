"""Which variables of a Dataset are observations of a state, and by which operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xr_daisi.dimensions import standard_name
from xr_daisi.errors import ObservationError, OperatorError, problem, raise_problems
from xr_daisi.observation_coordinates import Coordinates
from xr_daisi.observation_options import OperatorSettings
from xr_daisi.observation_quality import companions
from xr_daisi.operators import Operator, match_variable, resolve_operator
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec

__all__ = ["choose_variables"]


def choose_variables(
    ds: xr.Dataset,
    found: Coordinates,
    operators: OperatorSettings,
    spec: StateSpec,
    subject: str,
) -> dict[str, Operator]:
    """Find an operator for every variable that is used: those named, then those matched.

    Parameters
    ----------
    ds : Dataset
        Observations; not modified.
    found : Coordinates
        Its coordinates, which are no observations.
    operators : mapping of str to str or callable
        Those that the user named.
    spec : StateSpec
        The state.
    subject : str
        Name of the Dataset for messages.

    Returns
    -------
    dict of str to Operator
        By the name of the observed variable.

    Raises
    ------
    ObservationError
        With everything that is wrong.

    Warns
    -----
    UserWarning
        Naming variables that have the standard name of one of the state's, which another one of
        that name already observes.
    """
    chosen: dict[str, Operator] = {}
    by_standard_name: dict[str, list[str]] = {}
    problems: list[str] = []
    unused: dict[str, list[str]] = {}
    names = [str(name) for name in ds.data_vars if name not in found.names]
    ancillary = {other for name in names for other in companions(ds, name)}
    for name in names:
        kind = standard_name(ds[name])
        try:
            if name in operators:
                chosen[name] = resolve_operator(operators[name], name, kind, spec)
                continue
            if name in ancillary and name not in spec.names:
                continue
            matched = match_variable(name, kind, spec)
        except OperatorError as error:
            problems.append(str(error))
            continue
        if matched == name:
            chosen[name] = Operator(name, "identity", (name,))
        elif matched is not None:
            by_standard_name.setdefault(matched, []).append(name)
    for matched, candidates in by_standard_name.items():
        if matched in chosen:
            # Groups of IODA files, such as the counterparts of another model, are no observations.
            unused[matched] = [name for name in candidates if "@" not in name]
            continue
        if len(candidates) > 1:
            text = f"{candidates}, all with the standard name of the state's {matched!r}"
            remedy = (
                f"drop the others, or operator={{{candidates[1]!r}: 'identity'}} to use them too"
            )
            problems.append(problem(subject, text, "one of them", remedy))
            continue
        chosen[candidates[0]] = Operator(candidates[0], "identity", (matched,))
    problems += [
        problem(name, f"values of type {ds[name].dtype}", "numbers", "convert them, or drop it")
        for name in chosen
        if ds[name].dtype.kind not in "fiu"
    ]
    if not chosen and not problems:
        text = f"variables {names}, none of them in the state"
        expected = f"some of {list(spec.names)}, by name or standard name"
        remedy = "rename them with obs.rename({...}), or pass operator={variable: function}"
        problems.append(problem(subject, text, expected, remedy))
    raise_problems(ObservationError, problems)
    for matched, others in unused.items():
        if others:
            text = f"{others} with the standard name of {matched!r}, not used beside it"
            remedy = f"drop them, or operator={{{others[0]!r}: 'identity'}} to use them too"
            warn_user(problem(subject, text, "one variable for each of the state's", remedy))
    return chosen

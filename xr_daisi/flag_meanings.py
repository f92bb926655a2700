"""What the flags of CF say: whether a meaning is a good one, and the numbers that stand for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from xr_daisi.errors import ObservationError, problem

__all__ = ["accepted_codes", "flag_codes", "is_good", "number_in"]

_FIT = r"good|pass|ok(?![a-z])|okay|valid|accept|nominal|best|correct(?:ed|ly)?(?![a-z])|reliable|"
_FIT += r"usable|use$"
_NOT = r"no|not|non|never|nor|none|without|cannot|off|out_of|outside|below|above|beyond|less_than"

# What a flag's meaning says, in this order: the first that fits decides.
FITNESS = (
    (
        re.compile(
            r"no_(error|problem|issue|fail)|not_(flagged|suspect|bad|fail|reject|invalid)|unflagged"
        ),
        True,
    ),
    (
        re.compile(
            r"bad|fail|suspect|reject|erron|error|invalid|doubt|question|missing|exceed|"
            r"spike|stuck|out_of_range|unusable|do_not_use|unreliable|degraded|poor|"
            r"blacklist|duplicate|outlier|^no_data|^worst|^low_quality|^estimated|^not_used|^unused|"
            r"^flagged"
        ),
        False,
    ),
    # A good word denied: at once ("incorrect"), or before it ("did_not_pass", "no_valid_data").
    (re.compile(rf"(?:^|_)(?!uncorrected)(?:in|un|non|sub)(?:{_FIT})"), False),
    (re.compile(rf"(?:^|_)(?:{_NOT})_(?:\w+_)?(?:{_FIT})"), False),
    (
        re.compile(
            # of a word's beginning alone: what stands before it may turn it round
            rf"(?:^|_|probably|very)(?:{_FIT})|"
            # nobody has said anything against it
            r"^not_(evaluated|checked|assessed)|^no_(qc|quality_control)|^unchecked|"
            r"^value_changed|^changed_value"
        ),
        True,
    ),
)


def is_good(meaning: str) -> bool | None:
    """Tell whether values with a flag of this meaning are fit for use; None where it says neither.

    Parameters
    ----------
    meaning : str
        One of ``flag_meanings``, in lower case.

    Examples
    --------
    >>> is_good("probably_good"), is_good("did_not_pass"), is_good("interpolated")
    (True, False, None)
    """
    text = meaning.replace("-", "_")
    for pattern, good in FITNESS:
        if pattern.search(text):
            return good
    return None


def flag_codes(given: Any, name: str, subject: str, *, texts: bool, bits: bool) -> list[Any]:
    """Read ``flag_values`` or ``flag_masks``.

    Parameters
    ----------
    given : object
        The attribute: an array, a number or a text; None where there is none.
    name : str
        Its name.
    subject : str
        Name of the flags for messages.
    texts : bool
        Whether flags are texts; codes may be anything then.
    bits : bool
        Whether only whole numbers will do.

    Returns
    -------
    list
        Empty where there is none.

    Raises
    ------
    ObservationError
        For what is no number where flags are numbers.
    """
    if given is None:
        return []
    if isinstance(given, str):
        parts: list[Any] = [part for part in re.split(r"[,\s]+", given) if part]
    else:
        parts = np.asarray(given).reshape(-1).tolist()
    if texts:
        return parts
    numbers = [number_in(part) for part in parts]
    if None in numbers or (bits and any(n != int(n) for n in numbers if n is not None)):
        expected = "whole numbers" if bits else "numbers, as the flags are"
        raise ObservationError(problem(f"{subject}, {name}", repr(given), expected))
    return numbers


def number_in(code: Any) -> int | float | None:
    """Return the finite number that a code is or, as a text, spells; whole ones as int.

    Examples
    --------
    >>> number_in("4"), number_in(1.0), number_in("good")
    (4, 1, None)
    """
    try:
        number = float(code)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(number):
        return None
    # Not by way of float: bits may be 64.
    whole = int(code) if isinstance(code, (int, np.integer)) else int(number)
    return whole if number == int(number) else number


def accepted_codes(
    accepted: Sequence[str | int],
    codes: Sequence[Any],
    meanings: Sequence[str],
    subject: str,
    *,
    texts: bool,
) -> list[Any]:
    """Flag values that the user accepts, by value or by meaning.

    Parameters
    ----------
    accepted : sequence of str or int
        From ``quality=``.
    codes : sequence
        From `flag_codes`, possibly empty.
    meanings : sequence of str
        Of each of them, in lower case; possibly empty.
    subject : str
        Name of the flags for messages.
    texts : bool
        Whether flags are texts.

    Raises
    ------
    ObservationError
        Listing what is known, for what is neither.
    """
    named = dict(zip(meanings, codes, strict=False))
    out: list[Any] = []
    unknown = []
    for one in accepted:
        number = number_in(one)
        if isinstance(one, str) and one.lower() in named:
            out.append(named[one.lower()])
        elif texts and (not named or not isinstance(one, str) or one in map(str, codes)):
            out.append(one)
        elif not texts and number is not None:
            out.append(number)
        else:
            unknown.append(one)
    if unknown:
        known = f"meanings among {list(named)}, or values" if named else "numbers, as the flags are"
        if named or codes:
            known += f" such as {list(codes)}"
        raise ObservationError(problem(f"{subject}, quality", f"{unknown}", known))
    return out

"""Priors by path, URL or name."""

from __future__ import annotations

import ftplib
from importlib import resources
from pathlib import Path
from urllib.parse import urlparse

from xr_daisi.errors import DaisiTypeError, PriorError, problem
from xr_daisi.priors import FlowPrior

__all__ = ["load_prior", "register_prior", "registered_priors"]

_SHIPPED = ("sqg64",)
_REGISTERED: dict[str, FlowPrior | Path] = {}
_LOADED: dict[str, FlowPrior] = {}


def load_prior(source: str | Path, *, sha256: str | None = None) -> FlowPrior:
    """Load a prior by path, URL or registered name.

    Parameters
    ----------
    source : str or Path
        A ``.safetensors`` file, an http(s) or ftp URL, or a name such as ``"sqg64"``.
    sha256 : str, optional
        Expected `FlowPrior.sha256`, as a card and the attributes of an analysis show it. Without
        it, what a URL holds is taken on trust; it is downloaded once and then kept on disk.

    Returns
    -------
    FlowPrior
        Ready for use. Nothing in the file is executed.

    Raises
    ------
    PriorError
        If the source is unknown, the file is damaged, foreign or of a newer format, or it is
        another prior than `sha256` says.

    Examples
    --------
    >>> import xr_daisi
    >>> xr_daisi.load_prior("sqg64").spec.shape
    (2, 64, 64)
    """
    text = str(source)
    if text in _REGISTERED or text in _SHIPPED:
        prior = _registered(text)
    elif urlparse(text).scheme in ("http", "https", "ftp"):
        prior = _downloaded(text, sha256)
    else:
        prior = _from_file(Path(source).expanduser())
    _check(prior, text, sha256)
    return prior


def _check(prior: FlowPrior, source: str, sha256: str | None) -> None:
    if sha256 is not None and prior.sha256 != sha256.lower():
        raise PriorError(
            problem(f"prior {source}", f"sha256 {prior.sha256}", sha256, "check the source")
        )


def _from_file(path: Path) -> FlowPrior:
    if not path.is_file():
        raise PriorError(
            problem(
                "prior",
                f"a directory, '{path}'" if path.is_dir() else f"no file '{path}'",
                "a .safetensors file, a URL or a registered name",
                f"registered are: {', '.join(registered_priors())}",
            )
        )
    return FlowPrior.load(path)


def _downloaded(url: str, sha256: str | None) -> FlowPrior:
    import pooch  # type: ignore[import-untyped]

    try:
        path = Path(pooch.retrieve(url, known_hash=None, path=pooch.os_cache("xr_daisi")))
    except (OSError, EOFError, ValueError, ftplib.Error) as error:
        raise PriorError(
            problem("prior", f"no download of {url} ({error})", "a file", "check the address")
        ) from error
    try:
        prior = FlowPrior.load(path)
        _check(prior, url, sha256)
    except PriorError:
        path.unlink(missing_ok=True)  # the next call downloads again, perhaps something better
        raise
    return prior


def registered_priors() -> list[str]:
    """Return the names that `load_prior` knows."""
    return sorted({*_SHIPPED, *_REGISTERED})


def register_prior(name: str, prior: FlowPrior | str | Path) -> None:
    """Give a prior, or the file of one, a name for this session.

    Parameters
    ----------
    name : str
        What `load_prior` will know it by.
    prior : FlowPrior, str or Path
        The prior or its file; a file is read when first needed.

    Raises
    ------
    PriorError
        If the name is empty or taken by a shipped prior.
    DaisiTypeError
        If `prior` is of another type.
    """
    if name in _SHIPPED or not name:
        raise PriorError(problem("name", repr(name), "one that is not shipped", "choose another"))
    if isinstance(prior, FlowPrior):
        _REGISTERED[name] = prior
    elif isinstance(prior, (str, Path)):
        _REGISTERED[name] = Path(prior).expanduser().absolute()
    else:
        raise DaisiTypeError(problem("prior", type(prior).__name__, "a FlowPrior or its file"))
    _LOADED.pop(name, None)


def _registered(name: str) -> FlowPrior:
    entry = _REGISTERED.get(name)
    if isinstance(entry, FlowPrior):
        return entry
    if name not in _LOADED:
        if entry is not None:
            _LOADED[name] = _from_file(entry)
        else:
            shipped = resources.files("xr_daisi") / "data" / f"{name}.safetensors"
            with resources.as_file(shipped) as path:
                _LOADED[name] = FlowPrior.load(path)
    return _LOADED[name]

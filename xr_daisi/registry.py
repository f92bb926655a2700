"""Priors by path, URL or name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from urllib.parse import urlparse

from xr_daisi.errors import PriorError, problem
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
        Expected sha256 of a downloaded file; a URL without one is taken on trust.

    Returns
    -------
    FlowPrior
        Ready for use. Nothing in the file is executed.

    Raises
    ------
    PriorError
        If the source is unknown, or the file is damaged, foreign or of a newer format.

    Examples
    --------
    >>> import xr_daisi
    >>> xr_daisi.load_prior("sqg64").spec.shape
    (2, 64, 64)
    """
    text = str(source)
    if text in _REGISTERED or text in _SHIPPED:
        return _registered(text)
    if urlparse(text).scheme in ("http", "https", "ftp"):
        return FlowPrior.load(_download(text, sha256))
    path = Path(source)
    if not path.is_file():
        names = ", ".join(registered_priors())
        raise PriorError(
            problem(
                "prior",
                f"no file {text!r}" if not path.is_dir() else f"a directory, {text!r}",
                "a .safetensors file, a URL or a registered name",
                f"registered are: {names}",
            )
        )
    return FlowPrior.load(path)


def _download(url: str, sha256: str | None) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}" if sha256 else None))
    except ValueError as error:
        raise PriorError(
            problem("prior", f"another file at {url}", f"sha256 {sha256}", "check the source")
        ) from error
    except OSError as error:
        raise PriorError(
            problem("prior", f"no download of {url} ({error})", "a file", "check the address")
        ) from error



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
        If the name is taken by a shipped prior.
    """
    if name in _SHIPPED:
        raise PriorError(problem("name", repr(name), "one that is not shipped", "choose another"))
    _REGISTERED[name] = prior if isinstance(prior, FlowPrior) else Path(prior)
    _LOADED.pop(name, None)


def _registered(name: str) -> FlowPrior:
    entry = _REGISTERED.get(name)
    if isinstance(entry, FlowPrior):
        return entry
    if name not in _LOADED:
        if entry is None:
            with resources.as_file(
                resources.files("xr_daisi") / "data" / f"{name}.safetensors"
            ) as path:
                _LOADED[name] = FlowPrior.load(path)
        else:
            _LOADED[name] = FlowPrior.load(entry)
    return _LOADED[name]

"""Prior files: weights and a JSON card in one ``.safetensors`` file; names of known priors.

The format holds tensors and text only, so that loading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from xr_daisi.errors import DaisiError, PriorError, problem
from xr_daisi.networks import NETWORKS, build_network
from xr_daisi.priors import FlowPrior
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, StateSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FORMAT_VERSION",
    "identity",
    "load_prior",
    "register_prior",
    "registered_priors",
    "save_prior",
]

FORMAT = "xr_daisi flow prior"
FORMAT_VERSION = 1
"""Raised when older versions of the package could not read a file; older files stay readable."""

_SHIPPED = ("sqg64",)
_REGISTERED: dict[str, FlowPrior | Path] = {}
_LOADED: dict[str, FlowPrior] = {}


# -- card and tensors --------------------------------------------------------------------------------


def _tensors(prior: FlowPrior) -> dict[str, Tensor]:
    network = prior.network
    if not isinstance(network, tuple(kind for _, kind in NETWORKS.values())):
        raise PriorError(
            problem(
                f"prior {prior.name!r}",
                f"a network of type {type(network).__name__}",
                f"one of this package's ({', '.join(sorted(NETWORKS))})",
                "only priors with a known network can be saved; keep the code that wraps yours "
                "and call from_velocity or from_denoiser again",
            )
        )
    tensors = {f"network.{k}": v.detach().cpu() for k, v in network.state_dict().items()}
    tensors["normalization.mean"] = torch.from_numpy(np.array(prior.normalization.mean))
    tensors["normalization.std"] = torch.from_numpy(np.array(prior.normalization.std))
    # Views of one storage (a broadcast mean) are written out in full.
    return {k: v.clone().contiguous() for k, v in tensors.items()}


def _card(prior: FlowPrior) -> dict[str, Any]:
    network: Any = prior.network
    return {
        **{k: v for k, v in prior.card.items() if k not in ("sha256", "settings")},
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "state": prior.spec.to_dict(),
        "transforms": list(prior.normalization.transforms),
        "network": network.config.to_dict(),
        "interpolant": prior.interpolant,
    }


def _digest(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(_json(card).encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def identity(prior: FlowPrior) -> str | None:
    """Return the sha256 of weights and card without settings; None for a foreign network."""
    if not isinstance(prior.network, tuple(kind for _, kind in NETWORKS.values())):
        return None
    return _digest(_tensors(prior), _card(prior))


def save_prior(prior: FlowPrior, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a prior; see `FlowPrior.save`."""
    from safetensors.torch import save_file

    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target}: found an existing file, expected none; pass overwrite=True to replace it"
        )
    if callable(prior.settings.strength):
        raise PriorError(
            problem(
                "strength",
                "a callable",
                "a number, to be written on a card",
                "with_settings(strength=...) before saving, and pass the callable to assimilate",
            )
        )
    tensors, card = _tensors(prior), _card(prior)
    settings = prior.settings.to_dict()
    header = {
        "card": _json(card),
        "settings": _json(settings),
        "sha256": _digest(tensors, card),
        "settings_sha256": hashlib.sha256(_json(settings).encode()).hexdigest(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=header)
        # mkstemp makes a file for the owner alone; an ordinary one follows the umask.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


# -- loading -----------------------------------------------------------------------------------------


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
        return _read(_download(text, sha256))
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
    return _read(path)


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


def _read(path: Path) -> FlowPrior:
    from safetensors import SafetensorError, safe_open

    def damaged(found: str) -> PriorError:
        remedy = "download or train it again"
        return PriorError(problem(f"prior file {path}", found, "a prior of xr_daisi", remedy))

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(f"no readable safetensors file ({error})") from error
    try:
        card = json.loads(header["card"])
        settings = json.loads(header["settings"])
        version = int(card["format_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged("a safetensors file without the card of a flow prior") from error
    if card.get("format") != FORMAT:
        raise damaged(f"format {card.get('format')!r}")
    if version > FORMAT_VERSION:
        raise PriorError(
            problem(
                f"prior file {path}",
                f"format version {version}",
                f"at most {FORMAT_VERSION}",
                "upgrade xr_daisi",
            )
        )
    found = hashlib.sha256(_json(settings).encode()).hexdigest()
    if _digest(tensors, card) != header.get("sha256") or found != header.get("settings_sha256"):
        raise damaged("contents that do not match their sha256: the file is damaged or was edited")
    try:
        prior = _assemble(tensors, card, settings)
    except DaisiError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(f"a card that does not fit its weights ({error})") from error
    prior._sha256 = header["sha256"]
    return prior


def _assemble(
    tensors: dict[str, Tensor], card: dict[str, Any], settings: dict[str, Any]
) -> FlowPrior:
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k[:8] == "network."}
    static = weights["static"]
    network = build_network(card["network"], static if static.numel() else None)
    network.load_state_dict(weights)
    normalization = Normalization(
        tensors["normalization.mean"].numpy().astype(float),
        tensors["normalization.std"].numpy().astype(float),
        tuple(card["transforms"]),
    )
    derived = ("format", "format_version", "state", "transforms", "network", "interpolant")
    return FlowPrior(
        network.eval().requires_grad_(False),
        StateSpec.from_dict(card["state"]),
        normalization,
        settings=Settings().updated(settings),
        interpolant=card["interpolant"],
        card={k: v for k, v in card.items() if k not in derived},
    )


# -- names -------------------------------------------------------------------------------------------


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
                _LOADED[name] = _read(path)
        else:
            _LOADED[name] = _read(entry)
    return _LOADED[name]

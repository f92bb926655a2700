"""Prior files: weights and a JSON card in one ``.safetensors`` file.

The format holds tensors and text only, so that loading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xr_daisi.errors import PriorError, problem
from xr_daisi.output_files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from xr_daisi.settings import Settings

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "damaged",
    "digest",
    "read_file",
    "settings_entries",
    "write_file",
]

FORMAT = "xr_daisi flow prior"
FORMAT_VERSION = 3
"""Goes up when older versions of the package could not read a file; older files stay readable.

1: weights, normalisation, card; 2: holes of the state's domain, latitude and longitude of a
curvilinear grid; 3: dense networks.
"""


def digest(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """Return the sha256 of tensors and card."""
    sha = hashlib.sha256(_json(card).encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        sha.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def settings_entries(settings: Settings) -> dict[str, Any]:
    """Return settings as plain JSON types.

    Raises
    ------
    PriorError
        If the strength is a function, which cannot be written.
    """
    if callable(settings.strength):
        raise PriorError(
            problem(
                "strength",
                "a callable",
                "a number, to be written on a card",
                "with_settings(strength=...) before saving, and pass the callable to assimilate",
            )
        )
    return settings.to_dict()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    """Return what JSON does not know (numbers of NumPy in attributes, dates) as what it knows."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def write_file(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write a prior file, under a temporary name until it is complete.

    Parameters
    ----------
    path : str or Path
        Where to.
    tensors : mapping of str to Tensor
        Weights and normalisation, on the CPU.
    card, settings : mapping
        Plain JSON types.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    OSError
        If it cannot be written, such as on a full disk; nothing is left of it then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {
        "card": _json(card),
        "settings": _json(settings),
        "sha256": digest(tensors, card),
        "settings_sha256": hashlib.sha256(_json(settings).encode()).hexdigest(),
    }
    with replacing(Path(path), overwrite=overwrite, remedy="pass overwrite=True") as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=header)
        except (OSError, SafetensorError) as error:
            raise OSError(
                problem(
                    f"prior file {path}",
                    f"no way to write it ({error})",
                    "a place with room for it",
                    "free some space or name another path; nothing was left behind",
                )
            ) from error


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], str]:
    """Read and verify a prior file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tensors, card, settings, sha256
        As they were written.

    Raises
    ------
    PriorError
        If the file is damaged, foreign or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise PriorError(
            problem(
                f"prior file {path}", found, "a file that FlowPrior.save wrote", "check the path"
            )
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            card = _card(header, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise damaged(path, f"no readable safetensors file ({error})") from error
    sha256 = digest(tensors, card)
    try:
        settings = json.loads(header["settings"])
        whole = sha256 == header["sha256"]
        whole &= hashlib.sha256(_json(settings).encode()).hexdigest() == header["settings_sha256"]
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise damaged(path, "contents that do not match their sha256")
    return tensors, card, settings, sha256


def _card(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the card of a file's header, if this version of the package can read the file."""
    try:
        card = dict(json.loads(header["card"]))
        version, found = int(card["format_version"]), card["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "a safetensors file without the card of a flow prior") from error
    if found != FORMAT:
        raise damaged(path, f"format {found!r}")
    if version > FORMAT_VERSION:
        raise PriorError(
            problem(
                f"prior file {path}",
                f"format version {version}",
                f"at most {FORMAT_VERSION}",
                "upgrade xr_daisi",
            )
        )
    return card


def damaged(path: Path, found: str) -> PriorError:
    """Return the error for a file that is no (whole) prior."""
    remedy = "the file is damaged or was edited: download or train it again"
    return PriorError(problem(f"prior file {path}", found, "a whole prior of xr_daisi", remedy))

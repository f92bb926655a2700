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

__all__ = ["FORMAT_VERSION", "digest", "read_file", "write_file"]

FORMAT = "xr_daisi flow prior"
FORMAT_VERSION = 1
"""Goes up when older versions of the package could not read a file; older files stay readable."""


def digest(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """Return the sha256 of tensors and card."""
    sha = hashlib.sha256(_json(card).encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        sha.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


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
    """
    from safetensors.torch import save_file

    header = {
        "card": _json(card),
        "settings": _json(settings),
        "sha256": digest(tensors, card),
        "settings_sha256": hashlib.sha256(_json(settings).encode()).hexdigest(),
    }
    with replacing(Path(path), overwrite=overwrite, remedy="pass overwrite=True") as temporary:
        save_file(dict(tensors), temporary, metadata=header)


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

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(path, f"no readable safetensors file ({error})") from error
    try:
        card = json.loads(header["card"])
        settings = json.loads(header["settings"])
        version = int(card["format_version"])
        found_format = card["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "a safetensors file without the card of a flow prior") from error
    if found_format != FORMAT:
        raise damaged(path, f"format {found_format!r}")
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
    sha256 = digest(tensors, card)
    if sha256 != header.get("sha256") or found != header.get("settings_sha256"):
        raise damaged(path, "contents that do not match their sha256")
    return tensors, card, settings, sha256


def damaged(path: Path, found: str) -> PriorError:
    """Return the error for a file that is no (whole) prior."""
    remedy = "the file is damaged or was edited: download or train it again"
    return PriorError(problem(f"prior file {path}", found, "a whole prior of xr_daisi", remedy))

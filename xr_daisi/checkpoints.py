"""Checkpoints of a training: tensors and JSON in one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xr_daisi.errors import SettingsError, problem
from xr_daisi.output_files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["read_checkpoint", "write_checkpoint"]

REMEDY = "delete the file, or name another checkpoint"


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    progress: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
) -> None:
    """Write or replace a checkpoint.

    Parameters
    ----------
    path : Path
        The file.
    tensors : mapping of str to Tensor
        Weights and state of the optimiser, on any device.
    progress : mapping
        Where the training stands, plain JSON types.
    fingerprint : mapping
        What makes it this training and no other, plain JSON types.

    Raises
    ------
    OSError
        If it cannot be written; the one before is then still there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {"progress": json.dumps(progress), "fingerprint": json.dumps(fingerprint)}
    with replacing(path, overwrite=True, remedy="") as temporary:
        try:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_checkpoint(
    path: Path, fingerprint: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the checkpoint of one training.

    Parameters
    ----------
    path : Path
        The file.
    fingerprint : mapping
        What the training asked for is; entries that the file does not know are taken to agree.

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU.
    progress : dict
        Where the training stands.

    Raises
    ------
    SettingsError
        If it is no checkpoint, or one of another training.
    """
    from safetensors import SafetensorError, safe_open

    subject = f"checkpoint {path}"
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = dict(json.loads(header["fingerprint"]))
        progress = dict(json.loads(header["progress"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SettingsError(
            problem(subject, f"no readable checkpoint ({reason})", "one of train_prior", REMEDY)
        ) from error
    wanted = json.loads(json.dumps(fingerprint))
    different = [k for k in wanted if k in found and not _agree(found[k], wanted[k])]
    if different:
        raise SettingsError(
            problem(
                subject,
                f"that of a training with another {', '.join(different)}",
                "a checkpoint of this training",
                REMEDY,
            )
        )
    return tensors, progress


def _agree(found: object, wanted: object) -> bool:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return all(_agree(found[k], wanted[k]) for k in found.keys() & wanted.keys())
    return found == wanted

"""Progress bars on long work: in terminals and notebooks, nowhere else unless asked for."""

from __future__ import annotations

import sys
import warnings
from typing import Any

__all__ = ["progress_bar", "wants_progress"]


def wants_progress(progress: bool | None) -> bool:
    """Tell whether to show a bar: as asked, else in a terminal or notebook."""
    if progress is not None:
        return progress
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def progress_bar(progress: bool | None, **options: Any) -> Any:
    """Return a tqdm bar, silent where none is wanted."""
    with warnings.catch_warnings():
        # Notebooks without ipywidgets get the plain bar; nothing the user has to act upon.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm

    if options.get("unit") == "%":
        options["bar_format"] = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"
    return tqdm(disable=not wants_progress(progress), leave=True, **options)

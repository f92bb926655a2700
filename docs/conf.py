"""Sphinx configuration: Markdown pages, a reference made from the docstrings."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "xr_daisi"
author = "xr_daisi developers"
copyright = "2026, xr_daisi developers"
release = runpy.run_path(str(ROOT / "xr_daisi" / "_version.py"))["__version__"]
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc states the types with shapes and units
autodoc_member_order = "bysource"
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"xr_daisi {release}"
exclude_patterns = ["_build"]

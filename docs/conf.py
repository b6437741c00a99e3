"""Sphinx configuration of the handbook: ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import hrnet_d2  # noqa: E402

project = "hrnet_d2"
author = "the hrnet_d2 authors"
release = version = hrnet_d2.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "config_keys"]
exclude_patterns = ["_build", "images/*.txt"]
html_theme = "furo"
html_title = f"hrnet_d2 {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Detectron2 are not written for Sphinx
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Every reference must resolve, except those into other projects: the build needs no network, so
# there is no inventory of torch, NumPy or Detectron2 to look them up in.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!hrnet_d2\.).*"),
    # Types in signatures that are not a part of the public reference.
    ("py:class", r"hrnet_d2\.checkpoint\.settings\..*|hrnet_d2\..*\.DetectionRule"),
    ("py:class", r"hrnet_d2\.modeling\.meta_arch\.fcos\.inference\.Candidates"),
    (
        "py:class",
        r"hrnet_d2\.engine\.predictor\._Image|hrnet_d2\.modeling\.backbone\.levels\.Levels",
    ),
]

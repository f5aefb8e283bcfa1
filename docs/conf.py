"""The documentation site: ``make docs`` writes it to docs/_build."""

import theory

project = "score-machines"
author = "The score-machines authors"
copyright = "The score-machines authors"
release = theory.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "score-machines"
html_extra_path = ["_gallery"]  # what figures.make wrote: gallery/index.html

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"  # shapes are told in words and formulas below
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository

"""The site: every page of the repository as it stands, ordered, with a reference read from code.

    make docs

The source is the root of the repository, so that a link from a page to another, to an example or to
a test is the same here and there. Nothing is fetched, by the build or by a reader's browser.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # the code beside these pages, and site_pages

import secagg  # noqa: E402

project = "secagg"
copyright = "the authors of secagg"  # noqa: A001  # Sphinx's name for it
version = release = secagg.__version__

extensions = [
    *("sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"),
    *("site_pages", "site_reference"),
]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/**.md"]
exclude_patterns = [
    *(".*", "**/.*", "docs/_build", "tests", "runs", "dist"),
    *("CODE_OF_CONDUCT.md", "docs/pull_request_template.md"),
]

myst_heading_anchors = 6
myst_enable_extensions = ["colon_fence"]  # what is generated; the pages themselves are plain

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them

html_theme = "furo"
html_title = f"secagg {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["front"]  # index.html, which leads to docs/index.html
html_copy_source = False
html_show_search_summary = False  # a browser shows no text of another page that it opened as a file
html_theme_options = {"navigation_with_keys": True}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

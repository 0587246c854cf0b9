"""What the site makes of a page: order out of its links, and a place for a folder."""

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

LINK = re.compile(r"(?P<text>\w[^\[\]]*)?\]\((?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)")
OF_ROOT = re.compile(r"(\.\./)+[A-Z]+\.md")
FRONTS = ("README.md", "index.md", "train.py")  # what is shown of a folder, the first that is there


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lead links to folders into them; order the pages that an index page links to."""
    folder = Path(app.srcdir, docname).parent

    def led(link: re.Match[str]) -> str:
        place = folder / link["path"]
        if not place.is_dir():
            return link[0]
        front = next(name for name in FRONTS if (place / name).exists())
        return f"{link['text'] or ''}]({posixpath.join(link['path'], front)}{link['anchor'] or ''})"

    text = LINK.sub(led, source[0])
    if posixpath.basename(docname) == "index":
        text += _tree(text)
    source[0] = text


def _tree(text: str) -> str:
    """A table of contents of what an index page lists, or else of its folder."""
    items = "\n".join(line for line in text.splitlines() if line.startswith("- "))
    pages = [
        # A page of the root is called what the list calls it: its own title is for those outside.
        f"{link['text']} <{link['path']}>" if OF_ROOT.fullmatch(link["path"]) else link["path"]
        for link in LINK.finditer(items)
        if link["path"].endswith(".md")
    ]
    lines = ["", ":::{toctree}", *([":hidden:", *pages] if pages else [":glob:", "[0-9]*"]), ":::"]
    return "\n".join([*lines, ""])


def setup(app: Sphinx) -> dict[str, bool]:
    """Have every page read so."""
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True}

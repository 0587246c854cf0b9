"""What every page has: the file around it, its head and foot, figures, cards and tables."""

from collections.abc import Iterable
from importlib.resources import files
from string import Template

from secagg.pages.markup import Markup, join, tag


def template() -> str:
    """The file around every page: its policy, which forbids all requests, and its style."""
    return files("secagg.pages").joinpath("page.html").read_text("utf-8")


def page(title: str, *parts: str) -> str:
    """A page: one HTML file without script that requests nothing."""
    return Template(template()).substitute(title=join(title), body=join(*parts))


def header(eyebrow: str, title: str, *paragraphs: str, warnings: Iterable[str] = ()) -> Markup:
    """A paragraph that is ``Markup`` already stands as it is."""
    return tag(
        "header",
        tag("p", eyebrow, class_="eyebrow"),
        tag("h1", title),
        *(text if isinstance(text, Markup) else tag("p", text) for text in paragraphs),
        *(tag("p", text, class_="loud", role="note") for text in warnings),
    )


def cards(values: Iterable[tuple[str, str]]) -> Markup:
    """Large numbers, each above the words that say what it is."""
    pairs = (tag("div", tag("dt", label), tag("dd", value)) for value, label in values)
    return tag("dl", *pairs, class_="numbers")


def figure(title: str, detail: str, chart: Markup) -> Markup:
    """A chart under its title."""
    return tag("figure", tag("figcaption", title, tag("small", detail)), chart)


def figures(*each: Markup) -> Markup:
    """Figures side by side where there is room."""
    return tag("div", *each, class_="charts")


def legend(names: Iterable[str], *, inside: bool = False) -> Markup:
    """The colour of each name's marks; ``inside`` a caption, where HTML allows no list."""
    outer, inner = ("span", "span") if inside else ("ul", "li")
    keys = (tag(inner, tag("i", class_=name), name) for name in names)
    return tag(outer, *keys, class_="legend")


def table(
    headings: Iterable[str], rows: Iterable[Markup], class_: str | None = None, caption: str = ""
) -> Markup:
    """A table of whole rows, below their headings."""
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in headings)))
    above = [tag("caption", caption)] if caption else []
    return tag("table", *above, head, tag("tbody", *rows), class_=class_)


def row(*cells: str, head: str | None = None, class_: str | None = None) -> Markup:
    """A row of a table; ``head`` names it."""
    named = [] if head is None else [tag("th", head, scope="row")]
    return tag("tr", *named, *(tag("td", cell) for cell in cells), class_=class_)


def folded(summary: str, content: Markup) -> Markup:
    """What is shown when it is asked for, and scrolls where it is wider than the screen."""
    return tag("details", tag("summary", summary), tag("div", content, class_="wide"))


def items(texts: Iterable[str]) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", text) for text in texts))


def footer(*texts: str) -> Markup:
    """A line each."""
    return tag("footer", *(tag("p", text) for text in texts))

"""The site of the pages: whole, and asking nobody outside for anything."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKS = {"a", "form"}  # what a reader follows; every other address is fetched by the browser itself


class Addresses(HTMLParser):
    """Every address of a page that a browser fetches without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in LINKS:
            self.found += [
                value for name, value in attributes if name in {"src", "href", "srcset"} and value
            ]


def fetched(page: str) -> list[str]:
    reader = Addresses()
    reader.feed(page)
    return reader.found


def outside(addresses: list[str]) -> list[str]:
    return [one for one in addresses if one.startswith(("http:", "https:", "//"))]


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for path in site.rglob("*.html"):
        yield path, path.read_text("utf-8")


def test_no_page_of_the_site_names_a_script_a_style_or_a_picture_of_another_host(
    site: Path,
) -> None:
    assert [
        (path.name, found) for path, page in pages(site) if (found := outside(fetched(page)))
    ] == []
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert not re.search(r"""@import|url\(\s*["']?(https?:|//)""", text), style.name


def test_an_address_of_another_host_is_found() -> None:
    page = '<script src="https://cdn.example/x.js"></script><link href="//fonts.example/a.css">'
    assert outside(fetched(f'{page}<a href="https://example.org">a link</a>')) == [
        "https://cdn.example/x.js",
        "//fonts.example/a.css",
    ]


def test_every_page_of_docs_is_in_the_site_and_in_its_order(site: Path) -> None:
    front = (site / "docs" / "index.html").read_text("utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT).with_suffix(".html")
        if page.name != "pull_request_template.md":
            assert (site / name).exists(), name
    for page in ("own-loop", "privacy/delta", "protocols/ckks", "decisions/0013-ranks", "errors"):
        assert f'href="{page}.html"' in front  # the tree beside every page is complete


def test_a_link_out_of_docs_leads_to_a_page_or_a_file_of_the_site(site: Path) -> None:
    for path, page in pages(site):
        for link in page.split('href="')[1:]:
            target = link.partition('"')[0].partition("#")[0]
            if target and not target.startswith(("http", "mailto:", "data:")):
                found = (path.parent / target.partition("?")[0]).resolve()
                assert found.is_file(), f"{path.name}: {target}"
                assert found.is_relative_to(site.resolve()), f"{path.name}: {target}"

"""The site of the pages: whole, and asking nobody outside for anything."""

import html
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import click

import dp
import dp.accounting
import dp.noise
import protocols
import protocols.ckks
import secagg
import secagg.nodes
from secagg.cli.main import COMMANDS, cli
from secagg.nodes.policy import NodePolicy

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


def test_every_public_name_of_the_three_packages_is_in_the_reference(site: Path) -> None:
    shown = "".join(page for path, page in pages(site) if path.parent.name == "reference")
    for package in (secagg, dp, protocols, dp.accounting, dp.noise, protocols.ckks, secagg.nodes):
        assert package.__all__
        for name in package.__all__:
            thing = getattr(package, name)
            if not (name.startswith("__") or inspect.ismodule(thing)):
                word = rf"\b{re.escape(package.__name__)}\.{name}\b|>{name}<"
                assert re.search(word, shown), f"{package.__name__}.{name}"


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = (site / "docs" / "reference" / "commands.html").read_text("utf-8")
    words = html.unescape(re.sub("<[^>]+>", "", page))
    for name in COMMANDS:
        assert f"secagg {name}" in words
    for option in cli.get_command(click.Context(cli), "train").params:
        assert option.opts[-1] in words


def test_settings_and_metrics_of_the_reference_are_those_of_the_code(site: Path) -> None:
    page = (site / "docs" / "reference" / "settings.html").read_text("utf-8")
    words = html.unescape(re.sub("<[^>]+>", "", page))
    assert all(field.name in words for field in fields(NodePolicy))
    assert "secagg_refused_requests_total" in words


def test_every_environment_variable_that_is_read_has_its_row() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    read = set()
    homes = [Path(package.__file__ or "").parent for package in (secagg, dp, protocols)]
    for path in (path for home in homes for path in home.rglob("*.py")):
        text = path.read_text("utf-8")
        for name in re.findall(r"\bos\.environ(?:\.\w+\(|\[)([\w\"]+)", text):
            constant = re.search(rf'^{name}\b.* = "(\w+)"', text, re.MULTILINE)
            read |= {name.strip('"')} if '"' in name else {constant[1]} if constant else set()
    assert rows == read

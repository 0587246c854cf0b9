"""HTML and SVG out of values, escaped unless they are markup already.

A plain ``str`` cannot get into a page unescaped: the only way around the
escaping is to write ``Markup(...)``, which is a place for a reviewer to look.
"""

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """``<name attributes>children</name>``.

    In the names of attributes ``_`` stands for ``-`` and one at the end is dropped
    (``class_``). An attribute of ``None`` is left out; a float keeps one decimal.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """The children one after the other; those that are no ``Markup`` are escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")

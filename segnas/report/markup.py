"""HTML and SVG that cannot forget to escape, and numbers as people write them.

    tag("td", "a < b", class_="name")   ->  <td class="name">a &lt; b</td>

Only `Markup` (what `tag` and `join` return) passes unescaped; every plain string is text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """`text` as HTML; `Markup` stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(text, quote=True))


def join(parts: Iterable[str], separator: str = "") -> Markup:
    """Parts in a row, each escaped unless it is `Markup`."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` is written class, `stroke_width` stroke-width; None and False leave an attribute out."""
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            written.append(f" {key}")
        else:
            text = short(value) if isinstance(value, float) else str(value)
            written.append(f' {key}="{html.escape(text, quote=True)}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def short(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def percent(value: float | None, digits: int = 1) -> str:
    """`62.3 %`; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f} %"


def count(value: float) -> str:
    """Three digits and a magnitude: `987`, `12.3 k`, `10.1 M`, `333 G`."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{three_digits(value / limit)}{unit}"
    return f"{value:.0f}" if float(value).is_integer() else three_digits(value)


def three_digits(value: float) -> str:
    """`1.23`, `12.3`, `123`; more digits before the point are kept."""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"


def file_size(size: int) -> str:
    """Bytes as `912 kB` or `40.6 MB` (powers of ten)."""
    return f"{three_digits(size / 1e6)} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def plural(number: int, noun: str, plural_noun: str = "") -> str:
    """`1 image`, `12 images`, `2 classes`."""
    return f"{number:,} {noun if number == 1 else plural_noun or noun + 's'}"


def listing(names: Iterable[str], limit: int = 8) -> str:
    """`a, b and c`; past `limit` names, how many more there are."""
    words = list(names)
    if len(words) > limit:
        words = [*words[:limit], f"{len(words) - limit} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"

"""HTML out of nested calls. Whatever is not markup already is escaped, so that no text of a user can become markup."""

from __future__ import annotations

import html
import unicodedata

_VOID = {"img", "meta", "br", "hr", "link", "col"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def legal(text: str) -> str:
    """The text with U+FFFD for characters that no document may hold: controls and halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def escape(text: str) -> Markup:
    """Text -> HTML."""
    return Markup(html.escape(legal(text), quote=True))


def join(*parts: object) -> Markup:
    """Parts one after the other: Markup as it is, None left out, anything else as escaped text."""
    return Markup("".join(part if isinstance(part, Markup) else escape(str(part)) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. In names of attributes a trailing _ is dropped and others become -; None and False leave an attribute out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None and value is not False}
    words = [name, *(key if value is True else f'{key}="{escape(str(value))}"' for key, value in given.items())]
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")

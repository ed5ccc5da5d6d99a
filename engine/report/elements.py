"""Elements that several sections of a report's page share."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..files import encode_picture
from ..metrics.comparison import BRANCH_NAMES, Comparison, plain
from .document import LONGEST, small
from .markup import Markup, join, tag
from .words import number


def section(heading: object, *children: object, class_: str | None = None, id: str | None = None) -> Markup:
    return tag("section", tag("h2", heading), *children, class_=class_, id=id)


def table(heads: Iterable[Markup], bodies: Iterable[Markup], *, class_: str | None = None) -> Markup:
    return tag("table", tag("thead", tag("tr", *heads)), *bodies, class_=class_)


def head(text: str) -> Markup:
    return tag("th", text, scope="col")


def branch_head(branch: str, scope: str = "col") -> Markup:
    return tag("th", BRANCH_NAMES[branch], scope=scope, class_=f"branch {branch}")


def values_list(values: Mapping[str, object]) -> Markup:
    """Settings by name."""
    return tag("dl", *(tag("div", tag("dt", name), " ", tag("dd", _plain_text(value))) for name, value in values.items()))


def data(value: float, *, shown: str | None = None) -> Markup:
    """A number as shown, with the number in full for machines."""
    return tag("data", shown or (number(value) if isinstance(value, float) else str(value)), value=plain(value))


def image(picture: Tensor, alt: str, *, longest: int = LONGEST) -> Markup:
    """[3,h,w] uint8, without loss."""
    shown = small(picture, longest=longest)
    content = base64.b64encode(encode_picture(shown.float() / 255, "webp")).decode()
    return tag("img", src=f"data:image/webp;base64,{content}", width=shown.shape[-1], height=shown.shape[-2], alt=alt)


def kind(comparison: Comparison) -> Markup:
    """What the victim was to the protection, as a mark behind its name."""
    return join("\u2002", tag("span", "surrogate" if comparison.surrogate else "black box", class_="kind"))


def listed(*parts: str) -> str:
    """Those that are not empty, with commas."""
    return ", ".join(filter(None, parts))


def _plain_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)

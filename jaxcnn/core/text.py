"""Names and values from files, made harmless for where they are shown: a terminal, an HTML page, a Markdown file."""

import html as _html
import os
import re
import unicodedata
from typing import Any

_MARKDOWN = re.compile(r"(^[#+\-]|[\\`*_{}\[\]()<>|~$&])")  # the first three begin a block only at the start


def visible(value: Any) -> str:
    r"""Return text in which nothing acts on a terminal: control and format characters and lone surrogates become `\x1b`, `\u202e`."""
    text = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _harmless(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _harmless(c: str) -> bool:
    return c.isprintable() or unicodedata.category(c) == "Zs"


def html(value: Any) -> str:
    """Return text for HTML, in an element or an attribute."""
    return _html.escape(visible(value))


def markdown(value: Any) -> str:
    """Return text for one line of Markdown, in which nothing is markup."""
    return _MARKDOWN.sub(r"\\\1", visible(value))

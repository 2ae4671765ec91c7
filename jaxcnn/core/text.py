"""Names and values from files, escaped for the place where they are shown: a terminal, an HTML page or Markdown."""

import html as _html
import os
import re
import unicodedata
from typing import Any

_MARKDOWN = re.compile(r"(^[#+\-]|[\\`*_{}\[\]()<>|~$&])")  # the first three begin a block only at the start


def visible(value: Any) -> str:
    r"""Return text that cannot control a terminal.

    Control characters, format characters and lone surrogates become escapes such as `\x1b` and `\u202e`.
    """
    text = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _harmless(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _harmless(c: str) -> bool:
    return c.isprintable() or unicodedata.category(c) == "Zs"


def html(value: Any) -> str:
    """Escape text for an HTML element or attribute."""
    return _html.escape(visible(value))


def markdown(value: Any) -> str:
    """Escape text for one line of Markdown, so that nothing in it is markup."""
    return _MARKDOWN.sub(r"\\\1", visible(value))

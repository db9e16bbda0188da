"""A page as text.

Source of the policy: Content Security Policy Level 3, script-src with hashes.
"""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any, Final

from jaxmig.show.html.model import Page

HERE: Final = Path(__file__).parent


def render(page: Page) -> str:
    """The page as HTML; everything in `page` is escaped."""
    style, script = (_part(f"page.{kind}") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    text: str = _template().render(page=page, style=style, script=script, policy=policy)
    return text


def _part(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # For templates of any name, since names of files and processes are not trusted.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_part("page.html"))

"""What the HTML pages of this package share: a style, helpers of scripts, and safe embedding.

A page is one file that loads nothing: style, script and data are inside, and its content security
policy names the digests of its own style and script, so that nothing else runs.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = ["Page", "asset", "build_page", "embedded_json"]

# Before the styles and scripts of a page.
STYLE, SCRIPT = "base.css", "dom.js"


@dataclass(frozen=True)
class Page:
    """A page that has been put together."""

    html: str
    """The file."""
    policy: str
    """The value of ``Content-Security-Policy``."""


def build_page(
    package: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    *,
    texts: Mapping[str, str],
    data: Mapping[str, Any],
    sources: str,
) -> Page:
    """Fill the template ``page.html`` of a package's assets.

    The template has ``{{STYLE}}``, ``{{SCRIPT}}``, ``{{POLICY}}`` if the page states its policy
    itself, and the names of ``texts`` and ``data``.

    Args:
        package: whose ``assets`` they are.
        styles, scripts: names of assets, which follow the shared ones in this order.
        texts: plain text by name, escaped here.
        data: values by name, written as JSON for ``<script type="application/json">``.
        sources: directives of the policy for what the page shows and loads, such as
            "img-src data:".
    """
    style = "\n".join([asset(__package__, STYLE), *(asset(package, name) for name in styles)])
    script = "\n".join([asset(__package__, SCRIPT), *(asset(package, name) for name in scripts)])
    policy = (
        f"default-src 'none'; {sources}; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    parts = {"STYLE": style, "SCRIPT": script, "POLICY": policy}
    parts |= {name: html.escape(text) for name, text in texts.items()}
    parts |= {name: embedded_json(value) for name, value in data.items()}
    before, *rest = asset(package, "page.html").split("{{")
    pieces = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return Page("".join(pieces), policy)


def asset(package: str, name: str) -> str:
    """The text of a file in the ``assets`` of a package."""
    return (resources.files(package) / "assets" / name).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """JSON that nothing in it can turn into markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""The console: one static page, and the Content-Security-Policy that allows its own script and style only."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def page() -> tuple[str, dict[str, str]]:
    """Return the page and its response headers."""
    html = Path(__file__).with_name("console.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash('script', html)}; style-src {_hash('style', html)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}


def _hash(tag: str, html: str) -> str:
    """Return the hash source (CSP Level 3, section 2.3.1) of the only element named `tag`."""
    [content] = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

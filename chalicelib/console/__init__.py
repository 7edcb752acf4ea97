"""Serve the console, a static page joined from the files of this folder, and the listener, a
program that customers download and run on their machines.
"""

import base64
import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parent
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page() -> tuple[str, dict[str, str | list[str]]]:
    """Return the HTML of the console, joined from the files of the folder, and the headers of the
    response.

    The Content-Security-Policy allows only the script and the style of the page, by their hashes
    (CSP Level 3, section 2.3.1).
    """
    # A line `{{ list.js }}` stands for the text of the file list.js.
    html = re.sub(r"\{\{ (\S+) \}\}\n", _read_included, _read("page.html"))
    inline = re.findall(r"<(script|style)\b[^>]*>(.*?)</", html, re.DOTALL)
    digests = [
        (tag, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
        for tag, text in inline
    ]
    hashes = "".join(f"; {tag}-src 'sha256-{digest}'" for tag, digest in digests)
    return html, {**HEADERS, "Content-Security-Policy": f"default-src 'none'{hashes}; {POLICY}"}


def listener() -> tuple[str, dict[str, str | list[str]]]:
    """Return the source of the listener, a Python program, and the headers of the response."""
    headers: dict[str, str | list[str]] = {
        "Content-Type": "text/x-python",
        "X-Content-Type-Options": "nosniff",
    }
    return _read("listen.py"), headers


def _read_included(placeholder: re.Match[str]) -> str:
    """Return the text of the file that a placeholder of page.html names: `{{ list.js }}`."""
    return _read(placeholder[1])


def _read(name: str) -> str:
    """Return the text of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")

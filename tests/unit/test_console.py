"""What the console page may load and run, without a browser."""

import base64
import hashlib

from chalicelib.customers import console


def test_the_page_runs_its_own_script_and_style_alone_and_is_not_stored_sniffed_or_told_of() -> (
    None
):
    html, headers = console.page()

    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    directives = dict(
        part.split(" ", 1) for part in str(headers["Content-Security-Policy"]).split("; ")
    )
    for tag, opening in (("script", '<script type="module">'), ("style", "<style>")):
        content = html.split(opening)[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert directives.pop("connect-src") == "'self'"
    assert directives.pop("img-src") == "data:"
    assert set(directives) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(directives.values()) == {"'none'"}

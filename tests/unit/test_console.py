"""What the console page may load and run, without a browser."""

import base64
import hashlib

import pytest

from chalicelib.customers import console


@pytest.mark.parametrize(
    ("tag", "opening"), [("script", '<script type="module">'), ("style", "<style>")]
)
def test_the_page_runs_its_own_script_and_style_alone(tag: str, opening: str) -> None:
    html, headers = console.page()
    content = html.split(opening)[1].split(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    policy = str(headers["Content-Security-Policy"]).split("; ")
    assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy

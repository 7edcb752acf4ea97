"""`make api-key`: a key, and the entry of API_KEYS that accepts it."""

import pytest

from chalicelib import settings
from chalicelib.web.auth import authenticate
from tools import api_key


def test_the_printed_entry_accepts_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    api_key.main("acme", "produce+erase")

    key, entry = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    environ = {**dict.fromkeys(settings.REQUIRED, "http://127.0.0.1/"), "API_KEYS": entry}
    found = authenticate(f"Bearer {key}", settings.load(environ), now=0)
    assert found.name == "acme"
    assert set(found.scopes) == {"produce", "erase"}

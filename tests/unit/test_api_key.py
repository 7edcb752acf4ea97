"""`make api-key`: a key, and the entry of API_KEYS that accepts it."""

import pytest

from chalicelib import settings
from chalicelib.settings import Scope
from chalicelib.web.auth import authenticate
from tools import api_key


@pytest.mark.parametrize(
    ("scopes", "granted"),
    [("", {"produce", "consume"}), ("produce", {"produce"}), ("+".join(Scope), set(Scope))],
)
def test_the_printed_entry_accepts_the_key(
    scopes: str, granted: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    api_key.main("acme", scopes)

    key, entry = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    environ = {**dict.fromkeys(settings.REQUIRED, "http://127.0.0.1/"), "API_KEYS": entry}
    found = authenticate(f"Bearer {key}", settings.load(environ), now=0)
    assert found.name == "acme"
    assert set(found.scopes) == granted

"""`make api-key`: a key, and the entry of API_KEYS that accepts it."""

import shlex

import pytest

from chalicelib import settings
from chalicelib.web.auth import authenticate
from tools import api_key


@pytest.mark.parametrize("name", ["acme", "Person on call", "O'Neill"])
def test_the_printed_entry_accepts_the_key(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    api_key.main(name, "produce+erase")

    key, entry = (shlex.split(line)[-1] for line in capsys.readouterr().out.splitlines())
    environ = {**dict.fromkeys(settings.REQUIRED, "http://127.0.0.1/"), "API_KEYS": entry}
    found = authenticate(f"Bearer {key}", settings.load(environ), now=0)
    assert found.name == name
    assert set(found.scopes) == {"produce", "erase"}


@pytest.mark.parametrize("name", ["", "a,b", "a:b", " acme", "acme ", "a" * 65, "a\nb"])
def test_a_name_that_an_entry_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(SystemExit, match="NAME is unusable: it must be 1 to 64 characters"):
        api_key.main(name)

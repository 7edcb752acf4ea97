import base64
import hashlib

import pytest

from chalicelib import settings
from chalicelib.infra.errors import ApiError
from chalicelib.web.auth import authenticate

EMPTY = f"acme:{hashlib.sha256(b'').hexdigest()}"
ENVIRON = {**dict.fromkeys(settings.REQUIRED, "http://127.0.0.1/"), "API_KEYS": EMPTY}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic " + base64.b64encode(b":").decode(), "x y"]
)
def test_no_key_is_refused_even_if_an_entry_has_the_hash_of_the_empty_string(header: str) -> None:
    with pytest.raises(ApiError):
        authenticate(header, settings.load(ENVIRON), now=0)

import base64
import hashlib

import pytest

from chalicelib.infra.errors import ApiError
from chalicelib.settings import ApiKey, Scope
from chalicelib.web.auth import authenticate

EMPTY = ApiKey("acme", hashlib.sha256(b"").hexdigest(), frozenset(Scope))


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic " + base64.b64encode(b":").decode(), "x y"]
)
def test_no_key_is_refused_even_if_an_entry_has_the_hash_of_the_empty_string(header: str) -> None:
    with pytest.raises(ApiError):
        authenticate(header, [EMPTY], signing_secrets=[], now=0)

import hashlib

import pytest

from chalicelib.auth import ApiKey, Scope, authenticate, authorize
from chalicelib.errors import ForbiddenError, UnauthorizedError

BOTH = frozenset(Scope)
PRODUCE = frozenset({Scope.PRODUCE})
CONSUME = frozenset({Scope.CONSUME})


def entry(name: str, key: str, scopes: frozenset[Scope] = BOTH) -> ApiKey:
    return ApiKey(name, hashlib.sha256(key.encode()).hexdigest(), scopes)


KEYS = (entry("acme", "old-key"), entry("shop", "shop-key", PRODUCE), entry("acme", "new-key", CONSUME))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
@pytest.mark.parametrize(("key", "found"), list(zip(["old-key", "shop-key", "new-key"], KEYS, strict=True)))
def test_a_key_is_found_whatever_the_schemes_case_and_during_a_rotation(scheme: str, key: str, found: ApiKey) -> None:
    assert authenticate(f"{scheme} {key}", KEYS) is found


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", " ", "Bearer", "Bearer ", "shop-key", "Basic shop-key", "Bearershop-key", "Bearer:shop-key"),
        *("Bearer shop-key x", "Bearer shop-key ", " Bearer shop-key", "Bearer\nshop-key", "Bearer shop-key\n"),
        *("Bearer wrong", "Bearer SHOP-KEY", "Bearer shop-ke", "Bearer ключ", "Bearer \ud800", f"Bearer {'x' * 9999}"),
        f"Bearer {KEYS[1].digest}",
    ],
)
def test_every_other_authorization_is_refused_in_the_same_words(authorization: str | None) -> None:
    keys = (*KEYS, entry("nobody", ""))  # whose key is the empty text must not open to those who send none
    with pytest.raises(UnauthorizedError) as refused:
        authenticate(authorization, keys)
    assert str(refused.value) == "A valid API key is needed: Authorization: Bearer <key>."


def test_without_entries_every_key_is_refused() -> None:
    with pytest.raises(UnauthorizedError):
        authenticate("Bearer shop-key", ())


@pytest.mark.parametrize(("has", "needs"), [(PRODUCE, PRODUCE), (CONSUME, BOTH), (BOTH, CONSUME)])
def test_one_of_the_scopes_is_enough(has: frozenset[Scope], needs: frozenset[Scope]) -> None:
    authorize(entry("acme", "key", has), needs)


@pytest.mark.parametrize(("has", "needs"), [(PRODUCE, Scope.CONSUME), (CONSUME, Scope.PRODUCE)])
def test_a_key_without_the_scope_is_forbidden_and_told_which_it_lacks(has: frozenset[Scope], needs: Scope) -> None:
    with pytest.raises(ForbiddenError, match=f"lacks the scope {needs}"):
        authorize(entry("acme", "key", has), [needs])

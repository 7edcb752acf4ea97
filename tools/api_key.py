"""`make api-key NAME=acme`: print a new API key, and its entry for API_KEYS, which has its hash."""

import base64
import hashlib
import secrets
import shlex
import sys

from chalicelib.settings import PARSERS


def new_key() -> str:
    """Return an API key of 256 random bits, with a prefix by which secret scanners find keys."""
    return f"trk_{secrets.token_urlsafe(32)}"


def new_signing_secret() -> str:
    """Return a secret of 256 random bits for WEBHOOK_SIGNING_SECRETS."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def entry(name: str, key: str, scopes: str = "") -> str:
    """Return the entry of API_KEYS for a key: `name:digest` or `name:digest:scopes`. Raise
    ValueError if the name or the scopes are unusable.

    :param scopes: The scopes of the key, joined by `+`; empty: produce and consume.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()
    # The parser of the setting returns the entries of a text. A usable name makes one entry, with
    # this name; a name with a comma, for example, would make two.
    try:
        names = [parsed.name for parsed in PARSERS["API_KEYS"](f"{name}:{digest}")]
    except ValueError:
        names = []
    if names != [name] or name != name.strip():
        raise ValueError(
            "NAME is unusable: it must be 1 to 64 characters without colons and commas, as in: "
            "make api-key NAME=acme"
        )
    made = f"{name}:{digest}:{scopes}".rstrip(":")  # no colon at the end without scopes
    try:
        PARSERS["API_KEYS"](made)
    except ValueError as error:
        raise ValueError(f"SCOPES is unusable: the entry {error}") from None
    return made


def main(name: str = "", scopes: str = "") -> None:
    """Print a new key and its entry; exit with an error if the name or the scopes are unusable.

    :param name: The name of the key, which must not be empty.
    :param scopes: The scopes of the key, joined by `+`; empty: produce and consume.
    """
    key = new_key()
    try:
        made = shlex.quote(entry(name, key, scopes))  # a name may have spaces
        print(f"key, shown only now:   {key}\nentry for API_KEYS:    {made}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

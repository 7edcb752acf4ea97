"""Makes an API key: the key is shown once, and what the service is given is its hash.

Scopes left out mean both.
"""

import hashlib
import re
import secrets
import sys

from chalicelib.auth import Scope


def new_key() -> str:
    """Return a key of 256 random bits. The prefix lets secret scanners and people tell what it is."""
    return f"trk_{secrets.token_urlsafe(32)}"


def entry(name: str, key: str, scopes: str = "") -> str:
    """Return what `API_KEYS` holds for `key`; raise ValueError with a sentence for a person."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError("NAME must be 1 to 64 of A-Z a-z 0-9 . _ -, for example: make api-key NAME=acme")
    if scopes and not set(scopes.split("+")) <= set(Scope):
        raise ValueError(f"SCOPES must be {' or '.join(Scope)}, or {'+'.join(Scope)}, which is the default")
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{name}:{digest}:{scopes}" if scopes else f"{name}:{digest}"


def main(name: str = "", scopes: str = "") -> int:
    key = new_key()
    try:
        line = entry(name, key, scopes)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"key, shown this once:  {key}")
    print(f"entry for API_KEYS:    {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

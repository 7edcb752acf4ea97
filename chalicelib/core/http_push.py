"""The push client: sends one event to one URL over HTTP.

No log line, error or result holds a URL, a payload, a secret or the text of an exception.
"""

import hmac
import re
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from urllib.parse import unquote

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from chalicelib import __version__
from chalicelib.core.event import Event
from chalicelib.core.outcome import MAX_RETRY_AFTER_SECONDS, Outcome, PushResult
from chalicelib.core.target import Target
from chalicelib.infra.connection import (
    ADDRESS_NOT_ALLOWED,
    PUSH_ERRORS,
    TlsContext,
    error_text,
    pool_manager,
)
from chalicelib.infra.parsing import Json, to_base64
from chalicelib.infra.times import Clock, ms_since

OWN_HEADERS = {"Content-Type": "application/json", "User-Agent": f"triggers-api/{__version__}"}
EVENT_TYPE_HEADER = "webhook-event-type"  # a subscription may have had one of its own before
MAX_RESPONSE_BYTES = 1024
MAX_RESPONSE_CHARACTERS = 200
# The headers that say who answered: the application, or a proxy in front of it.
RESPONSE_HEADERS = (
    "server",
    "via",
    "content-type",
    "location",
    "retry-after",
    "www-authenticate",
    "x-request-id",
    "x-amzn-requestid",
    "x-amz-cf-id",
    "cf-ray",
)
MAX_HEADER_CHARACTERS = 120
MAX_HEADERS_CHARACTERS = 400  # of all values together
SECRET_CHARACTERS = 8  # fewer may be a word of any text
SECRET_WORD = re.compile(r"(?s)(?=.*\d).{6,}")  # identifiers are short in some webhooks' paths
RETRY_AFTER = urllib3.Retry(retry_after_max=MAX_RETRY_AFTER_SECONDS)


class PushClient:
    """Pushes events to any number of URLs over connections that are kept alive.

    Threads may share a client.

    :param clock: Returns wall time, which goes on while Lambda freezes a container.
    :param tls_context: Returns the context of all connections with TLS; it is called once, before
        the first of them.
    """

    def __init__(
        self, *, clock: Clock = time.time, tls_context: TlsContext = ssl.create_default_context
    ) -> None:
        """Make a client without connections.

        :param clock: Returns wall time (Unix seconds), which goes on while Lambda freezes a
            container.
        :param tls_context: Returns the TLS context of all connections; it is called once, before
            the first of them.
        """
        made_once = cache(tls_context)
        # A manager of connections to any address, and one of connections to public addresses alone.
        self._managers = {
            public_only: pool_manager(clock, made_once, public_only=public_only)
            for public_only in (False, True)
        }

    def send(
        self,
        event: Event,
        target: Target,
        timestamp: int,
        timeout_seconds: float,
        connect_timeout_seconds: float,
    ) -> PushResult:
        """Push an event once by an HTTP POST, without following redirects, and return the result.

        If no response came, the result is to be retried, or failed if the address is not allowed;
        nothing is raised. The result of a failed push has the beginning of the response, without
        secrets.

        :param timestamp: The time for which the push is signed (Unix seconds).
        :param timeout_seconds: The longest time for connecting, sending and reading together,
            above 0.
        :param connect_timeout_seconds: The longest time for connecting and the TLS handshake,
            above 0.
        """
        body = target.body_of(event)
        headers = urllib3.HTTPHeaderDict(target.headers)
        headers.update(own_headers(event, target, timestamp, body))
        started = time.monotonic()
        try:
            url = parse_url(target.url)
            uri = url.request_uri
            # The timeout of the pool limits connecting, the timeout of `urlopen` all of the push.
            pool = self._managers[target.public_only].connection_from_host(
                url.host, url.port, url.scheme, {"timeout": connect_timeout_seconds}
            )
            response = pool.urlopen(
                "POST",
                uri,
                body,
                headers,
                timeout=urllib3.Timeout(total=timeout_seconds),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except PUSH_ERRORS as error:
            text = error_text(error)
            outcome = Outcome.FAILED if text == ADDRESS_NOT_ALLOWED else Outcome.RETRY
            return PushResult(outcome, ms_since(started), error=text)
        response_body = _read_body(response)
        result = PushResult(Outcome.of(response.status), ms_since(started), response.status)
        if result.outcome is Outcome.DELIVERED:
            return result
        # A receiver may repeat parts of the request in its response: such parts are not stored.
        secrets = (uri, *target.headers.values(), *map(to_base64, target.secrets))
        parts = _secret_parts(secrets)
        return replace(
            result,
            error=f"receiver responded {response.status}",
            retry_after_seconds=_retry_after_seconds(response),
            response=_excerpt(response_body, parts),
            response_headers=_shown_headers(response, parts),
        )


def own_headers(event: Event, target: Target, timestamp: int, body: bytes) -> Json:
    """Return the headers of a push besides the `headers` that its target has: content type, user
    agent, id, timestamp, signature and event type.

    There is no signature if the target has no secrets, and no event type if its `headers` have one.
    With a `header_prefix`, id, timestamp and signature are there a second time, with names that
    begin with this prefix in place of `webhook`.

    :param timestamp: The time for which the push is signed (Unix seconds).
    :param body: The body of the push: exactly the bytes that are sent.
    """
    signed = {"webhook-id": event.event_id, "webhook-timestamp": str(timestamp)}
    if signatures := signature(target.secrets, event.event_id, timestamp, body):
        signed["webhook-signature"] = signatures
    headers = OWN_HEADERS | signed
    if prefix := target.header_prefix:
        headers |= {name.replace("webhook", prefix): text for name, text in signed.items()}
    if EVENT_TYPE_HEADER not in map(str.lower, target.headers):
        headers[EVENT_TYPE_HEADER] = event.event_type
    return headers


def signature(
    secrets: Iterable[bytes],
    message_id: str,
    timestamp: int,
    body: bytes,
) -> str:
    """Return the value of the `webhook-signature` header: an HMAC-SHA256 signature for each secret,
    separated by spaces; empty without secrets.

    Source: "Standard Webhooks", version 1,
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    :param message_id: The value of the `webhook-id` header.
    :param timestamp: The value of the `webhook-timestamp` header (whole Unix seconds).
    :param body: Exactly the bytes that are sent.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(secret, signed, "sha256") for secret in secrets)
    return " ".join(f"v1,{to_base64(digest)}" for digest in digests)


def _read_body(response: urllib3.BaseHTTPResponse) -> bytes:
    """Read up to MAX_RESPONSE_BYTES of a response's body and return them; close the connection if
    the body is longer, or reading fails.

    Errors are ignored: the status of the response decides about the push, not the body.
    """
    body = b""
    with suppress(*PUSH_ERRORS):
        # `read1` returns no bytes at the end of the body.
        while len(body) < MAX_RESPONSE_BYTES and (
            data := response.read1(MAX_RESPONSE_BYTES - len(body))
        ):
            body += data
    response.close()  # closes the connection unless the end of the body has released it
    return body


def _excerpt(body: bytes, secret_parts: set[str]) -> str:
    """Return the first MAX_RESPONSE_CHARACTERS of a body with control characters escaped, or an
    empty text if the body repeats a part of a secret.

    :param secret_parts: The parts that `_secret_parts` returns.
    """
    text = body.decode("utf-8", "replace")
    return "" if _repeats(text, secret_parts) else _escape(text[:MAX_RESPONSE_CHARACTERS])


def _shown_headers(response: urllib3.BaseHTTPResponse, secret_parts: set[str]) -> Json:
    """Return those of RESPONSE_HEADERS that a response has, by lower-case name, with control
    characters escaped.

    Each value is cut to MAX_HEADER_CHARACTERS, and all together to MAX_HEADERS_CHARACTERS. A header
    that repeats a part of a secret is left out. `location` is cut to its scheme and host: a path or
    query may be a credential.

    :param secret_parts: The parts that `_secret_parts` returns.
    """
    shown: Json = {}
    characters_left = MAX_HEADERS_CHARACTERS
    for name in RESPONSE_HEADERS:
        text = response.headers.get(name, "")
        if _repeats(text, secret_parts):
            continue
        if name == "location":
            text = _origin(text)
        text = _escape(text)[: min(MAX_HEADER_CHARACTERS, characters_left)]
        if text:
            shown[name] = text
            characters_left -= len(text)
    return shown


def _origin(location: str) -> str:
    """Return the scheme and host of an absolute URL (`https://example.com`); for any other text,
    return an empty text.
    """
    with suppress(HTTPError):
        url = parse_url(location)
        if url.scheme and url.host:
            return f"{url.scheme}://{url.host}"
    return ""


def _secret_parts(secrets: Iterable[str]) -> set[str]:
    """Return the parts of secrets that no text may show, in lower case.

    A secret is taken as a whole and split into words at `/`, `?`, `&` and the like, each also
    percent-decoded. The parts are all sequences of SECRET_CHARACTERS characters of these forms, and
    each shorter word that matches SECRET_WORD.

    :param secrets: Secrets: paths of URLs with their query, values of headers, signing secrets.
    """
    words = [word for secret in secrets for word in (secret, *re.split(r"[/?&=;,\s]", secret))]
    forms = [form.casefold() for word in words for form in (word, unquote(word))]
    sequences = {
        form[start : start + SECRET_CHARACTERS]
        for form in forms
        for start in range(len(form) - SECRET_CHARACTERS + 1)
    }
    # Longer words need no part of their own: their sequences are parts.
    short_words = [form for form in forms if len(form) < SECRET_CHARACTERS]
    return sequences.union(filter(SECRET_WORD.fullmatch, short_words))


def _repeats(text: str, secret_parts: set[str]) -> bool:
    """Return whether a text, as it is or percent-decoded, contains a part of a secret.

    :param secret_parts: The parts that `_secret_parts` returns, in lower case.
    """
    lowered = f"{text}\n{unquote(text)}".casefold()
    # Each sequence of the text is looked up in the set: to search 64 KiB of a header for thousands
    # of parts, one after another, would take a second.
    return any(
        lowered[start : start + length] in secret_parts
        for length in {len(part) for part in secret_parts}
        for start in range(len(lowered) - length + 1)
    )


def _escape(text: str) -> str:
    """Return a text with its control characters escaped as in a Python literal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _retry_after_seconds(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds that the `Retry-After` header of a 429 or 503 asks for, at most
    MAX_RETRY_AFTER_SECONDS; 0: no such response, or no usable header.

    Source: RFC 9110, section 10.2.3.
    """
    with suppress(HTTPError, ValueError, OverflowError):  # neither seconds nor a date
        if response.status in (429, 503):
            # RETRY_AFTER, a Retry of urllib3, returns MAX_RETRY_AFTER_SECONDS at most.
            return RETRY_AFTER.get_retry_after(response) or 0.0
    return 0.0

"""Where events may be pushed to: the rules for URLs, and the hosts that subscriptions may name."""

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from chalicelib.infra.addresses import is_public
from chalicelib.infra.errors import InvalidValueError

ANY_HOST = "*"


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts of SUBSCRIPTION_HOSTS: a name, `.example.com` for all hosts below it, or ANY_HOST; none: closed."""

    entries: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "AllowedHosts":
        """Return the hosts in a comma-separated list, or none; raise InvalidValueError."""
        if text == "none":
            return cls(())
        hosts = tuple(entry.strip().lower().removesuffix(".") for entry in text.split(","))
        if not all(re.fullmatch(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]*:[0-9a-f:.]*", host) for host in hosts):
            raise InvalidValueError("must be host names, .example.com or *, separated by commas, or none")
        return cls(hosts)

    def fault(self, url: str) -> str | None:
        """Return what is wrong with the target URL of a subscription, or None."""
        is_open = ANY_HOST in self.entries
        try:
            parse_push_url(url)
            if self.names(url) or (is_open and urlsplit(url).scheme == "https" and not _is_private(url)):
                return None
            fault = "must have https:// and no private address" if is_open else "must name an allowed host"
        except InvalidValueError as error:
            fault = str(error)
        return fault if is_open else f"{fault}; SUBSCRIPTION_HOSTS allows: {', '.join(self.entries) or 'none'}"

    def names(self, url: str) -> bool:
        """Return whether an entry names the host; pushes to others may connect to public addresses only."""
        host = (urlsplit(url).hostname or "").removesuffix(".")
        return any(host == entry or (entry.startswith(".") and host.endswith(entry)) for entry in self.entries)


def parse_push_url(text: str) -> str:
    """Return a URL that events may be pushed to; raise InvalidValueError."""
    if re.search(r"[^\x21-\x7e]|#", text):
        raise InvalidValueError("must not have spaces, control characters, non-ASCII characters or a fragment (#)")
    try:
        url, port = urlsplit(text), urlsplit(text).port
    except ValueError:
        raise InvalidValueError("must have a valid host and port") from None
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname)):
        raise InvalidValueError("must begin with https:// (http:// is for loopback hosts)")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+]|[A-Za-z0-9._-]+)(:[0-9]+)?", url.netloc) or port == 0:
        raise InvalidValueError("must have a valid host and port, and no user name or password")
    return text


def _is_private(url: str) -> bool:
    """Return whether the host is an address that is not public, in any spelling (`127.1`); of a name it is unknown."""
    host = (urlsplit(url).hostname or "").removesuffix(".")
    try:
        addresses = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
        return not is_public(str(addresses[0][4][0]))
    except (OSError, UnicodeError):
        return False


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"

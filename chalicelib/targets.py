"""Where events may be pushed to: the rules for URLs, and the hosts that subscriptions may name."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from chalicelib.errors import InvalidValueError

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
        fault = "must name a host that SUBSCRIPTION_HOSTS allows"
        try:
            parse_push_url(url)
            if self._names(url) or (ANY_HOST in self.entries and urlsplit(url).scheme == "https"):
                return None
        except InvalidValueError as error:
            fault = f"{error}; SUBSCRIPTION_HOSTS allows"
        return f"{fault}: {', '.join(self.entries) or 'none'}"

    def public_only(self, url: str) -> bool:
        """Return whether pushes to an allowed URL may connect to public addresses only."""
        return not self._names(url)

    def _names(self, url: str) -> bool:
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


def is_public(address: str) -> bool:
    """Return whether an IP address is reachable for everybody; of one that embeds an IPv4 address, whether that is."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        return embedded.is_global if embedded else ip.is_global
    return ip.is_global


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"

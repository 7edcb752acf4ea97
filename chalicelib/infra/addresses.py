"""Where events may be pushed to: the rules for URLs, hosts and IP addresses."""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from chalicelib.infra.errors import InvalidValueError
from chalicelib.infra.parsing import parser

PUSH_URL = (
    r"(?!.{2049})(?i:https://(\[[0-9a-f:.]+]|[a-z0-9._-]+)"
    r"|http://(localhost|127(\.[0-9]+){3}|\[::1]))"
    r"(:[0-9]+)?([/?][!-\"$-~]*)?"
)
EXPECTED_URL = (
    "an https URL of at most 2,048 printable ASCII characters, without spaces, "
    "user name or fragment (#)"
)
ANY_HOST = "*"
LOOPBACK = r"localhost|127\..*|::1"
HOST = r"(\*|\.?[\w-]+(\.[\w-]+)*\.?|[\da-f:]*:[\da-f:.]*)"
# Networks that the `is_global` of Python takes for public and that are not: all of IPv6 but global
# unicast (2000::/3), documentation (RFC 9637), multicast.
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in ("::/3", "4000::/2", "8000::/1", "3fff::/20", "224.0.0.0/4")
]
# Networks whose addresses embed an IPv4 address, and how many bits follow that: IPv4-compatible
# (RFC 4291), IPv4-mapped, NAT64 (RFC 6052) and 6to4 addresses.
EMBEDDED_BITS = {
    ipaddress.IPv6Network("::/96"): 0,
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,
    ipaddress.IPv6Network("2002::/16"): 80,
}


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts to which subscriptions may have events pushed (SUBSCRIPTION_HOSTS)."""

    # Host names or IP addresses, `.example.com` for all hosts below a domain, or ANY_HOST for all
    # public hosts. Without entries no host is allowed.
    entries: tuple[str, ...]

    def allows(self, url: str) -> bool:
        """Return whether a subscription may have a target URL.

        The URL must have the form of a push URL. Then an entry must name its host, or ANY_HOST must
        be an entry, the scheme https, and the host not a private IP address. In Lambda, no URL of
        this machine is allowed.
        """
        try:
            target = urlsplit(parse_push_url(url))
        except InvalidValueError:
            return False
        host = str(target.hostname)
        # In Lambda, the runtime API of the function listens on loopback addresses.
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and re.fullmatch(LOOPBACK, host):
            return False
        is_open = ANY_HOST in self.entries and target.scheme == "https"
        return self.names(url) or (is_open and not _is_private(host))

    def names(self, url: str) -> bool:
        """Return whether an entry names the host of a URL, or a domain above it (`.example.com`).

        The entry ANY_HOST names no host. So the caller can tell hosts that the operator named from
        hosts that only ANY_HOST allows, to which pushes may connect at public addresses alone.
        """
        host = str(urlsplit(url).hostname).removesuffix(".")
        return any(
            host == entry or (entry.startswith(".") and host.endswith(entry))
            for entry in self.entries
        )


def _allowed_hosts(text: str) -> AllowedHosts:
    """Return the hosts of a text with entries separated by commas; `none` stands for no host."""
    entries = [entry.strip().removesuffix(".") for entry in text.lower().split(",")]
    return AllowedHosts(tuple(entry for entry in entries if entry != "none"))


parse_allowed_hosts = parser(
    rf"(?ai){HOST}(\s*,\s*{HOST})*",
    "host names, .example.com or *, separated by commas, or none",
    _allowed_hosts,
)


def checked_url(url: str) -> str:
    """Return a URL unchanged; raise ValueError if urllib cannot parse its host or port, or the port
    is 0.
    """
    if urlsplit(url).port == 0:
        raise ValueError
    return url


parse_push_url = parser(PUSH_URL, f"{EXPECTED_URL}; http is for loopback hosts", checked_url)


def is_public(address: str) -> bool:
    """Return whether an IP address, perhaps with a zone (`fe80::1%eth0`), is a public one.

    An IPv6 address that embeds an IPv4 address is public if the IPv4 address is.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    for network, bits in EMBEDDED_BITS.items():
        if ip in network:
            # The IPv4 address has 32 bits, and `bits` bits follow it.
            embedded = (int(ip) >> bits) & 0xFFFFFFFF
            return is_public(str(ipaddress.IPv4Address(embedded)))
    return ip.is_global and not any(ip in network for network in NOT_PUBLIC)


def _is_private(host: str) -> bool:
    """Return whether the host of a URL is an IP address that is not public, in any spelling
    (`127.1` is 127.0.0.1).

    A host name is not looked up, and counts as not private.
    """
    try:
        addresses = socket.getaddrinfo(host.removesuffix("."), None, flags=socket.AI_NUMERICHOST)
        return not is_public(str(addresses[0][4][0]))
    except (OSError, UnicodeError):
        return False

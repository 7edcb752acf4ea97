"""Which IP addresses are public."""

import ipaddress

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, which older Pythons do not know
# IPv4-compatible (RFC 4291), IPv4-mapped and NAT64 (RFC 6052): their last 32 bits are an IPv4 address.
EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))


def is_public(address: str) -> bool:
    """Return whether an IP address is reachable for everybody; of one that embeds an IPv4 address, whether that is."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embeds = any(ip in network for network in EMBEDDING)
        if embedded := ipaddress.IPv4Address(ip.packed[-4:]) if embeds else ip.sixtofour:
            return is_public(str(embedded))
        return ip.is_global and ip in GLOBAL_UNICAST and ip not in DOCUMENTATION
    return ip.is_global and not ip.is_multicast

"""URLs taken apart the way browsers do, so that no spelling of a host gets past a list."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

LONGEST: Final = 8_192
"""A URL of more characters is malformed."""
LONGEST_HOST: Final = 253
LARGEST_PORT: Final = 65_535

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+):(.*)", re.DOTALL)
_UNSEEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f\s]")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{0,16}|[0-9]{1,16}")
_MOST_PARTS: Final = 4
_HEX, _OCTAL, _DECIMAL = 16, 8, 10


class Url(NamedTuple):
    """The parts of a URL that rules look at."""

    scheme: str
    """In lower case."""
    host: str
    """In lower case and ASCII, without user, port and last dot; an address in its usual form."""
    is_address: bool
    """Whether the host is an IP address in any spelling."""
    rest: str
    """Path, query and fragment."""


def parsed(url: str) -> Url | str:
    """The parts of a URL, or why it is malformed.

    As in browsers, backslashes are slashes, what stands before an `@` is a user, `%65` in a host is `e`, wide letters
    and dots are plain ones, `0x7f.1` and `2130706433` are addresses, and a dot at the end of a host says nothing.
    """
    if len(url) > LONGEST:
        return f"more than {LONGEST:,} characters"
    url = url.strip()
    if _UNSEEN.search(url) is not None:
        return "white space or a control character"
    found = _SCHEME.fullmatch(url)
    if found is None:
        return "no scheme"
    scheme, rest = found[1].lower(), found[2].replace("\\", "/")
    if not rest.startswith("//"):
        return "no // after the scheme"
    rest = rest.lstrip("/")
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    authority, rest = rest[:end].rpartition("@")[2], rest[end:]
    host, port = _host_and_port(authority)
    if port and (not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > LARGEST_PORT):
        return "a port that is none"
    if not host:
        return "no host"
    if host.startswith("["):
        address = _address_of(host)
        return Url(scheme, address, True, rest) if address else "an address that is none"
    name = host_name(host)
    if name is None:
        return "a host that is none"
    address = _address_of(name)
    if not address and _NUMBER.fullmatch(name.rpartition(".")[2]) is not None:
        return "an address that is none"
    return Url(scheme, address or name, bool(address), rest)


def _host_and_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, closing, port = authority.partition("]")
        return (host + closing, port.removeprefix(":")) if closing else ("", "")
    host, _, port = authority.partition(":")
    return host, port


@lru_cache(maxsize=4096)
def host_name(host: str) -> str | None:
    """A host as registries write it (lower case, IDNA 2003, no last dot); None where it can be none."""
    if len(host) > LONGEST_HOST * 4:
        return None
    host = _DOTS.sub(".", unquote(host, errors="replace")).removesuffix(".").lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return None
    if not host or len(host) > LONGEST_HOST:
        return None
    return host if all(_LABEL.fullmatch(label) for label in host.split(".")) else None


def _address_of(host: str) -> str:
    """An IP address in its usual form, whatever its spelling; empty where a host is a name."""
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return ""
    parts = host.split(".")
    if len(parts) > _MOST_PARTS or any(_NUMBER.fullmatch(part) is None for part in parts):
        return ""
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return ""
    *first, last = numbers
    if any(number > 255 for number in first) or last >= 256 ** (5 - len(parts)):
        return ""
    value = last + sum(number << (24 - 8 * place) for place, number in enumerate(first))
    return str(ipaddress.IPv4Address(value))


def _number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", _HEX)
    return int(part, _OCTAL if len(part) > 1 and part[0] == "0" else _DECIMAL)


def domains_of(host: str) -> list[str]:
    """A host and the domains that it is under, longest first: `a.b.c`, `b.c`, `c`."""
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]

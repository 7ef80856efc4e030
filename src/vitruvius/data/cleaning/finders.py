"""Where personal data and secrets stand in a text.

Every finder gives spans in order that do not overlap. None looks back or forth over more than a bounded number of
characters from what it starts at, so each takes time linear in the text.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Finder = Callable[[str], Iterator[tuple[int, int]]]

_LOCAL: Final = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-"
_AT: Final = re.compile(rf"(?<=[{_LOCAL}])@(?=[A-Za-z0-9])")
_LOCAL_PART: Final = re.compile(rf"[A-Za-z0-9_+][{_LOCAL}]{{0,63}}\Z")
_DOMAIN: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9](?![A-Za-z0-9-])"
)
_LONGEST_LOCAL: Final = 64
_EXAMPLES: Final = ("example.com", "example.org", "example.net", ".example", ".invalid", ".test", ".localhost")
"""Domains that nobody has (RFC 2606)."""


def emails(text: str) -> Iterator[tuple[int, int]]:
    """E-mail addresses (RFC 5322's dot-atoms of at most 64 characters) at domains with a dot, examples left out."""
    if "@" not in text:
        return
    end = 0
    for at in _AT.finditer(text):
        if at.start() < end:
            continue
        low = max(end, at.start() - _LONGEST_LOCAL)
        local = _LOCAL_PART.search(text[low : at.start()])
        domain = _DOMAIN.match(text, at.end())
        if local is None or domain is None or local[0].endswith(".") or ".." in local[0]:
            continue
        name = domain[0].lower()
        if any(name == example.lstrip(".") or name.endswith("." + example.lstrip(".")) for example in _EXAMPLES):
            continue
        end = domain.end()
        yield low + local.start(), end


# A pattern that begins with what it looks for is found much faster than one that begins with what must not stand
# before it; so that is asked after the first character: `(?<!x.)`.
_IPV4: Final = re.compile(r"\d(?<![\w.].)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-])(?!\.\d)")
_IPV6: Final = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")


_NO_ADDRESS: Final = ("version", "section", "release", "chapter")
_BEFORE: Final = 12


def ipv4(text: str) -> Iterator[tuple[int, int]]:
    """Public IPv4 addresses in dotted form, unless the word before says that it is a version or a section."""
    for found in _IPV4.finditer(text):
        before = text[max(0, found.start() - _BEFORE) : found.start()].rstrip().lower()
        if _is_public(found[0]) and not before.endswith(_NO_ADDRESS):
            yield found.span()


def ipv6(text: str) -> Iterator[tuple[int, int]]:
    """Public IPv6 addresses: those of the block 2000::/3 that are not reserved."""
    for found in _IPV6.finditer(text):
        if _is_public(found[0]):
            yield found.span()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


# `+` and country code, then groups; or an area code in brackets or before a separator, as in North America.
_PHONE: Final = re.compile(
    r"[+(1-9](?<![\w+.-].)(?:"
    r"(?<=\+)[1-9]\d{0,2}+(?:[ .-]?\(0?\d{1,4}\))?+(?:[ .-]?\d{1,5}+){2,6}+"
    r"|(?:(?<=\()[2-9]\d{2}\) ?|(?<=1)[ .-](?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])|(?<=[2-9])\d{2}[.-])"
    r"[2-9]\d{2}[ .-]\d{4}"
    r")(?![\w-])(?!\.\d)"
)
_LEAST_DIGITS, _MOST_DIGITS = 8, 15


def phones(text: str) -> Iterator[tuple[int, int]]:
    """Telephone numbers: `+` and 8 to 15 digits (E.164) in groups, or North America's (555) 234-5678."""
    for found in _PHONE.finditer(text):
        digits = sum(map(str.isdigit, found[0]))
        if not found[0].startswith("+") or _LEAST_DIGITS <= digits <= _MOST_DIGITS:
            yield found.span()


_CARD: Final = re.compile(
    r"[2-6](?<![\w.+-].)(?<!\d .)"
    r"(?:\d{12,18}|\d{3}(?:[ -]\d{4}){3}(?:[ -]\d{3})?|\d{3}[ -]\d{6}[ -]\d{4,5})(?![\w-])(?!\.\d)"
)
# First digits of networks, by ISO 7812: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro.
_NETWORKS: Final = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
    r"|(?:5018|5020|5038|6304|6759|676[1-3])\d{8,15}"
)
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of payment cards: the length and first digits of a network, and Luhn's check digit."""
    for found in _CARD.finditer(text):
        digits = found[0].replace(" ", "").replace("-", "")
        if digits.isascii() and _NETWORKS.fullmatch(digits) is not None and passes_luhn(digits):
            yield found.span()


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the one that Luhn's formula asks for (ISO 7812-1, annex B)."""
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0


_IBAN: Final = re.compile(
    r"[A-Z](?<![A-Za-z0-9].)[A-Z]\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SD": 18,
    "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
    "VG": 24, "XK": 20,
}  # fmt: skip
"""Country -> characters of its IBAN (the registry of ISO 13616)."""


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """International bank account numbers with their country's length and the right check digits (ISO 7064, mod 97)."""
    for found in _IBAN.finditer(text):
        # In groups, a word in capitals after it may look like one more.
        size = _IBAN_LENGTHS.get(found[0][:2])
        if size is None:
            continue
        start, stop = found.span()
        taken = 0
        for place in range(start, stop):
            taken += text[place] != " "
            if taken == size:
                account = text[start : place + 1].replace(" ", "")
                ends = place + 1 == stop or text[place + 1] == " "
                if ends and account.isascii() and passes_mod_97(account):
                    yield start, place + 1
                break


def passes_mod_97(account: str) -> bool:
    """Whether the check digits of an IBAN are right."""
    moved = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


# Beginning -> what follows it. A text without any of the beginnings is not looked at further.
_SECRETS: Final = {
    "AKIA": r"[0-9A-Z]{16}",  # Amazon Web Services
    "ASIA": r"[0-9A-Z]{16}",
    "ghp_": r"[0-9A-Za-z]{36}",  # GitHub
    "gho_": r"[0-9A-Za-z]{36}",
    "ghu_": r"[0-9A-Za-z]{36}",
    "ghs_": r"[0-9A-Za-z]{36}",
    "ghr_": r"[0-9A-Za-z]{36,76}",
    "github_pat_": r"[0-9A-Za-z_]{82}",
    "glpat-": r"[0-9A-Za-z_-]{20,64}",  # GitLab
    "xoxb-": r"[0-9A-Za-z-]{20,200}",  # Slack
    "xoxp-": r"[0-9A-Za-z-]{20,200}",
    "xoxa-": r"[0-9A-Za-z-]{20,200}",
    "xoxr-": r"[0-9A-Za-z-]{20,200}",
    "xoxs-": r"[0-9A-Za-z-]{20,200}",
    "sk-ant-": r"[0-9A-Za-z_-]{24,200}",  # Anthropic
    "sk-proj-": r"[0-9A-Za-z_-]{24,200}",  # OpenAI
    "sk-": r"[0-9A-Za-z]{32,64}",
    "sk_live_": r"[0-9A-Za-z]{16,128}",  # Stripe
    "rk_live_": r"[0-9A-Za-z]{16,128}",
    "AIza": r"[0-9A-Za-z_-]{35}",  # Google
    "GOCSPX-": r"[0-9A-Za-z_-]{28}",
    "hf_": r"[0-9A-Za-z]{34}",  # Hugging Face
    "npm_": r"[0-9A-Za-z]{36}",
    "pypi-AgEIcHlwaS5vcmc": r"[0-9A-Za-z_-]{50,250}",
    "SG.": r"[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}",  # SendGrid
    "dop_v1_": r"[0-9a-f]{64}",  # DigitalOcean
    "shpat_": r"[0-9a-fA-F]{32}",  # Shopify
    "eyJ": r"[0-9A-Za-z_-]{10,2000}\.eyJ[0-9A-Za-z_-]{10,4000}\.[0-9A-Za-z_-]{10,1000}",  # JSON Web Token
}
_SECRET: Final = {
    start: re.compile(rf"(?<![0-9A-Za-z_-]){re.escape(start)}{rest}(?![0-9A-Za-z_-])")
    for start, rest in _SECRETS.items()
}
_KEY_START: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END: Final = re.compile(r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_KEY: Final = 16_384


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Keys and tokens that say by their beginning what they are, and private keys in PEM."""
    spans = [found.span() for start, pattern in _SECRET.items() if start in text for found in pattern.finditer(text)]
    if "-----BEGIN " in text:
        spans += _private_keys(text)
    end = 0
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop
            end = stop


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    for found in _KEY_START.finditer(text):
        # Only letters, digits and headers lie between: what comes to another dashed line first is talk about keys.
        dashes = text.find("-----", found.end(), found.end() + _LONGEST_KEY)
        closing = _KEY_END.match(text, dashes) if dashes >= 0 else None
        if closing is not None:
            yield found.start(), closing.end()


FINDERS: Final[dict[str, Finder]] = {
    "secrets": secrets,
    "emails": emails,
    "ibans": ibans,
    "cards": cards,
    "phones": phones,
    "ipv6": ipv6,
    "ipv4": ipv4,
}
"""Kind -> what finds it, in the order in which they are masked."""

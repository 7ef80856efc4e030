"""Masks take what identifies a person or opens a door, and leave what only looks like it."""

from __future__ import annotations

import ipaddress
import random
import string

import pytest

from vitruvius.data.cleaning.finders import FINDERS, passes_luhn, passes_mod_97
from vitruvius.data.cleaning.pii import Pii

WORDS = ("the", "of", "and", "river", "house", "seven", "went", "over", "again", "with", "about", "some", "place", "in")


def _check_digit(digits: str) -> str:
    return next(check for check in "0123456789" if passes_luhn(digits + check))


def _iban(generator: random.Random) -> str:
    country, size = generator.choice([("DE", 22), ("GB", 22), ("FR", 27), ("NO", 15), ("CH", 21), ("MT", 31)])
    rest = "".join(generator.choice(string.digits) for _ in range(size - 4))
    check = next(f"{n:02d}" for n in range(2, 99) if passes_mod_97(f"{country}{n:02d}{rest}"))
    return country + check + rest


def _digits(generator: random.Random, count: int) -> str:
    return "".join(generator.choice(string.digits) for _ in range(count))


def _letters(generator: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(generator.choice(alphabet) for _ in range(count))


def _fours(text: str, between: str) -> str:
    return between.join(text[start : start + 4] for start in range(0, len(text), 4))


def _public_ipv4(generator: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(generator.getrandbits(32))
        if address.is_global:
            return str(address)


def _card(generator: random.Random) -> str:
    start, size = generator.choice([("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("6011", 16), ("36", 14)])
    number = start + _digits(generator, size - len(start) - 1)
    number += _check_digit(number)
    return generator.choice([number, _fours(number, " "), _fours(number, "-")]) if size == 16 else number


def _phone(generator: random.Random) -> str:
    area, local, line = (generator.choice("23456789") + _digits(generator, n) for n in (2, 2, 3))
    return generator.choice(
        [
            f"({area}) {local}-{line}", f"{area}-{local}-{line}", f"{area}.{local}.{line}", f"+1 {area} {local} {line}",
            f"+44 20 7946 {line}", f"+49 (0)30 {local}{line}", f"+33 1 42 68 53 {line[:2]}",
            f"+1-{area}-{local}-{line}",
        ]
    )  # fmt: skip


SECRETS = {
    "AKIA": lambda g: "AKIA" + _letters(g, 16, string.ascii_uppercase + string.digits),
    "github": lambda g: "ghp_" + _letters(g, 36),
    "slack": lambda g: f"xoxb-{_digits(g, 11)}-{_digits(g, 11)}-{_letters(g, 24)}",
    "google": lambda g: "AIza" + _letters(g, 35),
    "hugging face": lambda g: "hf_" + _letters(g, 34),
    "stripe": lambda g: "sk_live_" + _letters(g, 24),
    "web token": lambda g: f"eyJ{_letters(g, 30)}.eyJ{_letters(g, 60)}.{_letters(g, 43)}",
    "private key": lambda g: (
        f"-----BEGIN RSA PRIVATE KEY-----\n{_letters(g, 64)}\n{_letters(g, 30)}==\n-----END RSA PRIVATE KEY-----"
    ),
}
POSITIVE = {
    "emails": lambda g: (
        f"{g.choice(WORDS)}{g.choice(['.', '_', '+', '-', ''])}{g.choice(WORDS)}{_digits(g, 2)}@"
        f"{g.choice(['mail.', ''])}{_letters(g, 6, string.ascii_lowercase)}.{g.choice(['com', 'co.uk', 'museum'])}"
    ),
    "ipv4": _public_ipv4,
    "ipv6": lambda g: str(ipaddress.IPv6Address((0x2A00 << 112) | g.getrandbits(112))),
    "phones": _phone,
    "cards": _card,
    "ibans": lambda g: g.choice([str, lambda account: _fours(account, " ")])(_iban(g)),
    "secrets": lambda g: g.choice(list(SECRETS.values()))(g),
}
NEGATIVE = [
    lambda g: f"{_letters(g, 5)}@{_letters(g, 5, string.ascii_lowercase)}",  # a handle, without a domain
    lambda g: "@property",
    lambda g: f"user{_digits(g, 2)}@example.com",
    lambda g: f"10.{g.randrange(256)}.{g.randrange(256)}.{g.randrange(256)}",
    lambda g: f"192.168.{g.randrange(256)}.{g.randrange(256)}",
    lambda g: f"v{_digits(g, 1)}.{_digits(g, 2)}.{_digits(g, 1)}",
    lambda g: f"{_digits(g, 1)}.{_digits(g, 1)}.{_digits(g, 2)}.{_digits(g, 1)}.{_digits(g, 1)}",
    lambda g: f"2001:db8::{_digits(g, 3)}",
    lambda g: "std::vector",
    lambda g: f"{g.randrange(24):02d}:{g.randrange(60):02d}:{g.randrange(60):02d}",
    lambda g: f"20{_digits(g, 2)}-{g.randrange(1, 13):02d}-{g.randrange(1, 29):02d}",
    lambda g: f"978-3-16-{_digits(g, 6)}-0",
    lambda g: f"{_digits(g, 3)}-{_digits(g, 4)}",
    lambda g: _digits(g, 9),
    lambda g: f"{g.randrange(10**6):,}",
    lambda g: (n := "4" + _digits(g, 14)) + str((int(_check_digit(n)) + 1) % 10),  # a wrong check digit
    lambda g: (a := _iban(g))[:-1] + str((int(a[-1]) + 1) % 10),
    lambda g: "sk-" + _letters(g, 8),
    lambda g: _letters(g, 40, "0123456789abcdef"),  # a hash
    lambda g: "AKIA" + _letters(g, 8, string.ascii_uppercase),
    lambda g: "-----BEGIN PUBLIC KEY-----",
    lambda g: "-----BEGIN PRIVATE KEY-----",
    lambda g: f"version {_public_ipv4(g)}",
    lambda g: f"Section\u00a0{_public_ipv4(g)}",
    lambda g: f"{_digits(g, 3)} + {_digits(g, 4)} = {_digits(g, 4)}",
]


def _labelled(generator: random.Random) -> tuple[str, list[tuple[str, int, int]]]:
    """A text, and (kind, start, end) of everything in it that has to be found."""
    text, spans = "", []
    for _ in range(generator.randrange(5, 30)):
        text += generator.choice(WORDS) + generator.choice([" ", " ", ", ", ": ", "\n", " ("])
        draw = generator.random()
        if draw < 0.3:
            kind = generator.choice(list(POSITIVE))
            found = POSITIVE[kind](generator)
            spans.append((kind, len(text), len(text) + len(found)))
            text += found + generator.choice([" ", ", ", ". ", ") ", "\n"])
        elif draw < 0.6:
            text += generator.choice(NEGATIVE)(generator) + generator.choice([" ", ", ", "\n"])
    return text, spans


@pytest.mark.parametrize("kind", FINDERS)
def test_a_kind_is_found_whole_and_nothing_else_is(kind):
    generator = random.Random(7)
    right = found = labelled = 0
    for _ in range(2_000):
        text, spans = _labelled(generator)
        wanted = {(start, end) for name, start, end in spans if name == kind}
        given = set(FINDERS[kind](text))
        right += len(wanted & given)
        found += len(given)
        labelled += len(wanted)
    assert labelled > 500
    assert right / labelled >= 0.99, "recall"
    assert right / found >= 0.99, "precision"


@pytest.mark.parametrize("name", SECRETS)
def test_each_kind_of_secret_is_masked(name, document):
    done = Pii().rewritten(document(f"key = '{SECRETS[name](random.Random(1))}'\n"))
    assert done.document.text == "key = '<KEY>'\n"
    assert done.changes == {"secrets": 1}


def test_masks_are_named_by_the_settings_and_none_keeps_a_kind(document):
    text = "joe@mail.org 8.8.8.8 +44 20 7946 0958"
    assert Pii().rewritten(document(text)).document.text == "<EMAIL> <IP_ADDRESS> <PHONE>"
    done = Pii(emails="email@example.com", phones=None, ipv4="").rewritten(document(text))
    assert done.document.text == "email@example.com  +44 20 7946 0958"
    assert done.changes == {"emails": 1, "ipv4": 1}


def test_a_masked_text_has_nothing_left_to_mask(document):
    generator = random.Random(11)
    for _ in range(300):
        once = Pii().rewritten(document(_labelled(generator)[0])).document
        assert Pii().rewritten(once).changes == {}


def test_a_text_without_any_stays_the_same_document(document):
    plain = document("nothing here")
    assert Pii().rewritten(plain).document is plain


@pytest.mark.parametrize(
    "unit",
    [
        "@", "a@", "a@b", "a@b.", "a.", "1", "1.", "1.1.1.1.", "8.8.8.8", "2001:", "2000:a:", "::", "+1", "+", "(",
        "(2", "222-", "222-222-", "4111 ", "4111-", "4", "DE", "DE89", "DE89 ", "AAAA ", "eyJ", "eyJa.",
        "eyJaaaaaaaaaaa.",
        "sk-", "AKIA", "ghp_", "xoxb-a", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----BEGIN A A A PRIVATE KEY",
        "SG.", "-", " ",
    ],
)  # fmt: skip
def test_no_finder_is_slowed_down_by_what_begins_and_never_ends(unit, document):
    # What starts again at each of them takes hours for this, which the suite's time limit turns into a failure.
    Pii().rewritten(document(unit * (2**19 // len(unit))))

"""No spelling of a host gets past a list, and a list does not take what it does not name."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.cleaning.hosts import Url as Parts
from vitruvius.data.cleaning.hosts import parsed
from vitruvius.data.cleaning.settings import list_file
from vitruvius.data.cleaning.urls import Url
from vitruvius.errors import DataError

SPELLINGS = [
    "http://evil.com",
    "HTTP://EVIL.COM/",
    "https://www.evil.com/a?b#c",
    "http://evil.com./",
    "http://evil.com:8080/",
    "http://good.com@evil.com/",
    "http://good.com:pass@evil.com:80/",
    "http://good.com%40x@evil.com/",
    "http:\\\\evil.com\\@good.com/",
    "http:///evil.com/",
    "http://%65vil.com/",
    "http://evil\u3002com/",
    "http://\uff45\uff56\uff49\uff4c.com/",
    "http://\u24d4vil.com/",
    "http://a.b.c.d.evil.com/",
    "  http://evil.com  ",
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_a_blocked_domain_is_found_in_every_spelling(url, document, failing):
    for entry in ("evil.com", "EVIL.com.", "*.evil.com", ".evil.com", "http://evil.com/"):
        assert failing(Url(domains=(entry,)), document(url=url)) == ["url_domain"]


@pytest.mark.parametrize(
    "url",
    [
        "http://notevil.com/",
        "http://evil.com.good.org/",
        "http://evil.co/",
        "http://good.org/evil.com",
        "http://good.org/?u=http://evil.com",
        "http://evil.com@good.org/",
        "http://com/",
    ],
)
def test_a_blocked_domain_blocks_nothing_else(url, document, failing):
    assert failing(Url(domains=("evil.com",)), document(url=url)) == []


def test_a_domain_in_another_script_is_the_same_in_ascii(document, failing):
    for entry in ("b\u00fccher.example", "xn--bcher-kva.example", "B\u00dcCHER.example"):
        for url in ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/", "http://bu\u0308cher.example"):
            assert failing(Url(domains=(entry,)), document(url=url)) == ["url_domain"]


MALFORMED = [
    "",
    "evil.com",
    "//evil.com",
    "mailto:a@b.c",
    "javascript:alert(1)",
    "http:",
    "http://",
    "http://:80",
    "http://a b/",
    "http://a\n.com",
    "http://a.com:x/",
    "http://a.com:65536/",
    "http://a.com:\u0661/",
    "http://a..com/",
    "http://-a.com/",
    "http://" + "a" * 64 + ".com",
    "http://" + "a." * 130 + "com",
    "http://a.com%00.b.com/",
    "http://[::1/",
    "http://[x]/",
    "http://1.2.3.4.5/",
    "http://1.2.3.256/",
    "http://a.com/" + "x" * 9_000,
    "http://\u0301.com\udc80",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused(url, document, failing):
    assert isinstance(parsed(url), str)
    assert failing(Url(), document(url=url)) == ["url_malformed"]


ADDRESSES = {
    "http://127.0.0.1/": "127.0.0.1",
    "http://127.1/": "127.0.0.1",
    "http://0x7f.0.0.1/": "127.0.0.1",
    "http://0177.0.0.01/": "127.0.0.1",
    "http://2130706433/": "127.0.0.1",
    "http://%31%32%37.0.0.1": "127.0.0.1",
    "http://127.0.0.1./": "127.0.0.1",
    "http://[::1]:80/": "[::1]",
    "http://[2001:DB8:0:0::1]/": "[2001:db8::1]",
}


@pytest.mark.parametrize(("url", "address"), ADDRESSES.items())
def test_an_address_is_one_in_every_spelling(url, address, document, failing):
    found = parsed(url)
    assert isinstance(found, Parts)
    assert (found.host, found.is_address) == (address, True)
    assert failing(Url(), document(url=url)) == ["url_address"]
    assert failing(Url(addresses="keep", domains=(address,)), document(url=url)) == ["url_domain"]


@given(st.integers(0, 2**32 - 1))
def test_any_number_is_the_address_that_it_is(value):
    expected = str(ipaddress.IPv4Address(value))
    for spelling in (str(value), hex(value), expected):
        found = parsed(f"http://{spelling}/")
        assert isinstance(found, Parts)
        assert found.host == expected


@given(st.text(alphabet=st.sampled_from("htp:/\\@.[]%0aé \u3002?#-x1"), max_size=40) | st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text):
    assert isinstance(parsed(text), Parts | str)
    assert isinstance(parsed("http://" + text), Parts | str)


def test_a_document_without_url_passes_unless_one_is_required(document, failing):
    assert list(Url().measures(document())) == []
    assert failing(Url(required="url"), document()) == ["url_missing"]


def test_schemes_and_labels_have_limits(document, failing):
    assert failing(Url(), document(url="ftp://a.com/x")) == ["url_scheme"]
    assert failing(Url(schemes=("ftp",)), document(url="ftp://a.com/x")) == []
    assert failing(Url(most_labels=3), document(url="http://a.b.c.com/")) == ["url_labels"]
    assert failing(Url(most_labels=4), document(url="http://a.b.c.com./")) == []


LISTS = [
    (Url(urls=("http://A.com/x/",)), "https://a.com/x", "url_listed"),
    (Url(urls=("http://a.com/x",)), "http://a.com/x#part", "url_listed"),
    (Url(urls=("http://a.com/x",)), "http://a.com/xy", None),
    (Url(patterns=("*.a.com/forum/*",)), "http://b.a.com/forum/1", "url_pattern"),
    (Url(patterns=("*.a.com/forum/*",)), "http://a.com/forum/1", None),
    (Url(patterns=("a.com/",)), "http://a.com/", "url_pattern"),
    (Url(patterns=("a.com/",)), "http://a.com/b", None),
    (Url(patterns=("*a*a*a*",)), "http://b.com/aa", None),
    (Url(patterns=("*ab*ba*",)), "http://c.com/aba", None),
    (Url(words=("casino",)), "http://a.com/best-CASINO-2024", "url_word"),
    (Url(words=("casino",)), "http://a.com/casinos", None),
    (Url(parts=("casino",)), "http://a.com/cas-inos", "url_part"),
    (Url(soft_words=("free", "win", "cash")), "http://a.com/free-win", "url_soft_words"),
    (Url(soft_words=("free", "win", "cash")), "http://a.com/free-free", None),
]


@pytest.mark.parametrize(("rule", "url", "reason"), LISTS)
def test_a_list_blocks_what_it_names(rule, url, reason, document, failing):
    assert failing(rule, document(url=url)) == ([] if reason is None else [reason])


def test_a_file_of_domains_is_read_and_held_to_its_hash(tmp_path, document, failing):
    path = tmp_path / "blocked.txt"
    path.write_text("# spam\n\nevil.com\n  worse.org  \n")
    rule = Url(domains=("first.net", list_file(path)))
    assert [failing(rule, document(url=f"http://{host}/")) for host in ("evil.com", "x.worse.org", "first.net")] == (
        [["url_domain"]] * 3
    )
    assert failing(rule, document(url="http://spam/")) == []
    changed = dataclasses.replace(list_file(path), sha256="0" * 64)
    with pytest.raises(DataError, match="has changed"):
        failing(Url(domains=(changed,)), document(url="http://a.com/"))


def test_a_pattern_of_many_stars_takes_no_time():
    rule = Url(patterns=("*a" * 2_000 + "*b",))
    from vitruvius.data.document import Document

    page = Document(id="d", file="f", line=1, byte_offset=0, text="", url="http://x.com/" + "a" * 7_000)
    assert all(measure.passed for measure in rule.measures(page))

"""The vocabulary report: exact counts, and nothing claimed that is not so."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from vitruvius.data.tokenization.comparing import domains_of, vocabulary_report
from vitruvius.data.tokenization.samples import DECLARATION, Domain, built_in
from vitruvius.data.tokenization.tokenizer import Tokenizer, TrainOptions, train
from vitruvius.data.tokenization.usage import difference, usage_facts, worst_words
from vitruvius.data.tokenization.vocabulary import unreachable_tokens, vocabulary_facts
from vitruvius.errors import DataError
from vitruvius.report.vocabulary_page import vocabulary_page
from vitruvius.report.vocabulary_text import vocabulary_text

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tokenizers")

TEXTS = ("the quick brown fox jumps over the lazy dog in 1984\n" * 20, "Größe, naïveté, 日本語\n" * 10)
BPE = train(TEXTS, TrainOptions(vocab_size=340))
WORD_PIECE = train(TEXTS, TrainOptions(kind="wordpiece", vocab_size=200))
STATE = json.loads(BPE.text)


def domain(*texts: str, name: str = "sample") -> Domain:
    return Domain(name=name, source="a test", texts=texts, whole=True)


def test_numbers_of_a_domain_are_those_of_its_texts():
    texts = ("the fox 1984", "Größe")
    (found,) = usage_facts(BPE, [domain(*texts)])["domains"]
    tokens = sum(len(BPE.encode(text)) for text in texts)
    assert found["tokens"] == tokens
    assert found["bytes_per_token"] == round(sum(len(text.encode()) for text in texts) / tokens, 4)
    assert found["tokens_per_word"] == round(tokens / 4, 4)
    assert (found["round_trip_failures"], found["unknown_tokens"]) == (0, 0)


def test_documents_that_do_not_come_back_are_counted_and_the_first_place_is_shown():
    (found,) = usage_facts(WORD_PIECE, [domain("the fox", "the  fox", "the \u0639 fox")])["domains"]
    assert found["round_trip_failures"] == 2
    assert found["unknown_tokens"] == 1
    assert found["first_failure"] == {"document": 1, "character": 4, "text": "the  fox"}


@pytest.mark.parametrize(
    ("text", "back", "place"), [("a", "a", None), ("abc", "abd", 2), ("abc", "ab", 2), ("", "x", 0), ("xyz", "ayz", 0)]
)
def test_the_first_difference_is_found(text, back, place):
    assert difference(text, back) == place


def test_worst_words_are_ordered_by_what_they_cost():
    found = worst_words(BPE, Counter({"the": 1_000, "zzzz": 5, "qqqqqqqq": 4}))
    assert [word["word"] for word in found] == ["qqqqqqqq", "zzzz"]
    assert [word["extra_tokens"] for word in found] == [4 * (found[0]["tokens"] - 1), 5 * (found[1]["tokens"] - 1)]
    assert "".join(found[0]["pieces"]) == " qqqqqqqq"


def test_unused_tokens_are_those_that_no_text_was_encoded_to():
    facts = usage_facts(BPE, [domain("the the")])
    used = set(BPE.encode("the the"))
    assert facts["unused_count"] == sum(1 for token, piece in enumerate(BPE.token_bytes) if piece and token not in used)


def test_a_trained_tokenizer_has_no_token_out_of_reach():
    for tokenizer in (BPE, WORD_PIECE):
        assert list(unreachable_tokens(tokenizer)) == []


def test_a_token_without_merges_is_out_of_reach():
    vocabulary = STATE["model"]["vocab"] | {"qzx": BPE.vocab_size}
    found = Tokenizer(STATE | {"model": STATE["model"] | {"vocab": vocabulary}})
    assert list(unreachable_tokens(found)) == [BPE.vocab_size]
    assert vocabulary_facts(found)["unreachable"] == [{"id": BPE.vocab_size, "text": "qzx"}]


def test_a_unigram_piece_that_others_always_beat_is_out_of_reach():
    state = json.loads(train(TEXTS, TrainOptions(kind="unigram", vocab_size=300)).text)
    state["model"]["vocab"].append(["the", -90.0])
    assert list(unreachable_tokens(Tokenizer(state)))[-1] == len(state["model"]["vocab"]) - 1


def test_the_vocabulary_adds_up():
    facts = vocabulary_facts(BPE)
    assert facts["vocab_size"] == facts["tokens"] == BPE.vocab_size
    assert facts["special_tokens"] == [{"id": 0, "text": "<|endoftext|>"}]
    assert (facts["single_byte_tokens"], facts["utf8_bytes_without_token"]) == (256, 0)
    assert facts["longest_digits"] == 3
    assert facts["scripts"]["Latin"] > facts["scripts"].get("Cjk", 0)


def test_samples_are_on_this_machine_and_say_what_they_are():
    found = {domain.name: domain for domain in built_in()}
    assert {"Python", "numbers", *DECLARATION} <= found.keys()
    assert all(domain.source and domain.texts for domain in found.values())
    assert sum(map(len, found["Python"].texts)) > 500_000


def test_texts_of_each_suffix_are_a_domain_and_records_that_cannot_be_used_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("plain text")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\nnot json\n{"text": "two"}\n')
    (tmp_path / "c.html").write_text("<p>a page</p>")
    domains, refused = domains_of([tmp_path])
    assert refused == 1
    assert {found.name.rpartition(" ")[2]: found.texts for found in domains} == {
        ".txt": ("plain text",),
        ".jsonl": ("one", "two"),
        ".html": ("a page\n",),
    }


def test_no_more_is_read_than_asked_and_it_says_so(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "x" * 100}) + "\n" for _ in range(50)))
    ((found,), _) = domains_of([tmp_path / "a.jsonl"], characters=250)
    assert (len(found.texts), found.whole) == (3, False)


def test_prepared_data_gives_the_texts_that_are_held_out(texts, tmp_path):
    from vitruvius.data import PrepareOptions, TokenShards, prepare

    prepare([texts], tmp_path / "data", PrepareOptions(vocab=300, held_out=0.2))
    ((found,), refused) = domains_of([tmp_path / "data"])
    shards = TokenShards.open(tmp_path / "data", "validation")
    assert (len(found.texts), refused, found.whole) == (len(shards.document_starts) - 1, 0, True)
    assert all(text.startswith("document ") and text.endswith(" has words\n") for text in found.texts)


def test_without_text_there_is_an_error_that_names_the_argument(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"a\.txt"):
        domains_of([tmp_path / "a.txt"])


# ----------------------------------------------------------------------------------------------------------------------
# The page


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    hostile = domain("<script>alert(1)</script> & <b> \x1b[2J " * 40, name="<i>name</i>")
    domains = [domain(*TEXTS, name="large" + "e" * 60), hostile, domain("short", name="English")]
    return vocabulary_report([("bpe <one>", BPE), ("wordpiece", WORD_PIECE)], domains)


def test_the_report_is_plain_data_and_the_same_again(report):
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert report["schema"] == "vitruvius.data-tokenizer-report/1"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        assert not any(name.startswith("on") or "http" in (value or "") for name, value in attrs if name != "xmlns")
        if tag not in ("meta", "line", "rect", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "line", "rect", "path", "circle"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_holds_nothing_from_the_texts_as_markup(report):
    page = vocabulary_page(report, title="Of <mine>")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen["script"] and not tags.seen["b"] and not tags.seen["i"] and not tags.seen["link"]
    assert "Of &lt;mine&gt;" in page
    assert "\x1b" not in page


def test_the_page_shows_each_tokenizer_in_each_domain(report):
    page = vocabulary_page(report, title="x")
    for found in report["tokenizers"]:
        for measured in found["usage"]["domains"][:2]:
            assert f"{measured['bytes_per_token']:.2f}" in page


def test_what_loses_text_is_marked_and_never_the_best(report):
    measured = report["tokenizers"][1]["usage"]["domains"][0]
    assert measured["round_trip_failures"] > 0
    assert f"{measured['bytes_per_token']:.2f}*" in vocabulary_page(report, title="x")
    sample = domain("日本語 \u0639\u0639\u0639", name="lost")
    page = vocabulary_page(vocabulary_report([("a", BPE), ("b", WORD_PIECE)], [sample]), title="x")
    assert "1 unknown" in page
    assert page.count('class="best"') == 1


def test_the_text_has_a_line_for_each_domain(report):
    text = vocabulary_text(report)
    assert re.search(r"^English +5 +\d+\.\d{3} +\d+\.\d{3}$", text, re.MULTILINE)
    assert "documents that do not come back" in text


# ----------------------------------------------------------------------------------------------------------------------
# The command


def run(*words: object) -> int:

    from vitruvius.cli import main

    return main.run(["data", "tokenizer", *map(str, words)])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} has words\n" * 5}) + "\n" for i in range(40)))
    return path


def test_train_show_and_report_go_together(texts, tmp_path, capsys):
    out = tmp_path / "tokenizer.json"
    assert run("train", texts, "--vocab", 300, "--special", "<e>", "--special", "<u>", "--out", out, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["schema"], made["documents"], made["eos"]) == ("vitruvius.data-tokenizer-train/1", 40, "<e>")

    assert run("show", out, "--eos", "<e>", "--text", "a <u> b", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["fingerprint"] == made["fingerprint"]
    assert "".join(shown["encoded"]["pieces"]) == "a <u> b"
    assert not {0, 1} & set(shown["encoded"]["ids"])

    page = tmp_path / "page.html"
    assert run("report", out, texts, "--eos", "<e>", "--against", out, "--html", page, "--json") == 2  # no eos for it
    assert "--eos" in capsys.readouterr().err
    assert not page.exists()
    assert run("report", out, texts, "--eos", "<e>", "--html", page, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokenizers"][0]["fingerprint"] == made["fingerprint"]
    assert found["domains"][0]["documents"] == 40
    assert page.read_text().startswith("<!doctype html>")


def test_talk_goes_to_standard_error_and_names_the_next_command(texts, tmp_path, capsys):
    out = tmp_path / "tokenizer.json"
    assert run("train", texts, "--kind", "unigram", "--vocab", 290, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"next: vitruvius data tokenizer report {out}" in said.err
    assert run("show", out, "--text", "\x1b[2J") == 0
    said = capsys.readouterr()
    assert "byte-level unigram" in said.out
    assert "\x1b" not in said.out
    assert run("report", out, texts) == 0
    said = capsys.readouterr()
    assert "bytes per token" in said.out
    assert "next: vitruvius data prepare" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "missing.txt", "--out", "t.json"], "missing.txt"),
        (["show", "missing.json"], "missing.json"),
        (["report", "missing.json"], "missing.json"),
        (["train", "python-stdlib", "--vocab", "3", "--out", "t.json"], "--vocab"),
        (["train", "python-stdlib", "--out", "no/such/folder/t.json"], "no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_exit_2_and_names_what_was_wrong(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()

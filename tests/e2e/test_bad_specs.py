"""Specs that are wrong in every way we could think of, through the command: refused with the place and the way out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vitruvius.cli.main import run

# Generous: each of these takes milliseconds; what is guarded against takes hours.
pytestmark = pytest.mark.timeout(120)

GOOD = """\
name: good
vocab_size: 64
width: 32
context: 48
blocks:
  a:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: {kind: rope, theta: 1e4}}
    ffn: {kind: swiglu, hidden: 64}
  b: {extends: a, ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 32}}}
layers: (a b)*2
"""


def with_(*changes: tuple[str, str]) -> str:
    """The good spec with texts replaced, each at its first place."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def top(line: str) -> str:
    """The good spec with one more line, its eleventh."""
    return f"{GOOD}{line}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here, capsys):
    """Run a command that must be refused; what it said on stderr.

    Nothing but words may come of it: no output, no file, no damage to the next command.
    """

    def call(*argv: str) -> str:
        (here / "fine.yaml").write_text(GOOD)
        before = contents(here)
        code = run(argv)
        shown = capsys.readouterr()
        assert code == 2, shown.err
        assert shown.out == ""
        assert "Traceback" not in shown.err and "bug in vitruvius" not in shown.err
        assert shown.err.replace("\n", "").isprintable()
        assert len(shown.err) < 20_000
        assert contents(here) == before, "a refused command leaves every file as it was"
        assert run(["size", "fine.yaml"]) == 0, "the next valid command works"
        capsys.readouterr()
        return shown.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def written(text: str | bytes) -> str:
    """The text as a spec file, by its name."""
    Path("arch.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return "arch.yaml"


# ----------------------------------------------------------------------------------------------------------------------
# Each case: the spec, then what must be said about it. `arch.yaml:3:8` is the place of the mistake, not near it.

CASES = {
    # scalars
    "no is no truth value": (top("head: {kind: lm, tied: no}"), "arch.yaml:11:24  head.tied", '"no" where true or'),
    "on is no number": (with_(("width: 32", "width: on")), "arch.yaml:3:8  width", '"on" is not a whole number'),
    "1:30 is no number": (with_(("48", "1:30")), "arch.yaml:4:10  context", '"1:30" is not a whole number'),
    "1e-3 is a number but not a whole one": (with_(("32", "1e-3")), "arch.yaml:3:8  width", "0.001 is not a whole"),
    "1e3 is told how to be whole": (with_(("32", "1e3")), "arch.yaml:3:8  width", "fix: write 1000"),
    "4.0 is told how to be whole": (with_(("32", "32.0")), "arch.yaml:3:8  width", "fix: write 32\n"),
    "a quoted number": (with_(("32", '"32"')), "arch.yaml:3:8  width", "fix: remove the quotes"),
    "a leading zero": (with_(("32", "032")), "arch.yaml:3:8  width", "fix: write 32, or"),
    "a negative width": (with_(("32", "-32")), "arch.yaml:3:8  width", "-32 is out of range\n  fix: use a number > 0"),
    "a width of zero": (with_(("32", "0")), "arch.yaml:3:8  width", "0 is out of range"),
    "a true width": (with_(("32", "true")), "arch.yaml:3:8  width", "true is not a whole number"),
    "a width of 2^31": (with_(("32", "2147483648")), "arch.yaml:3:8  width", "fix: use a number <= 2,147,483,647"),
    "a width of 20 digits": (with_(("32", "9" * 20)), "arch.yaml:3:8  width", f"{'9' * 20} is out of range"),
    "a width of 5,000 digits": (with_(("32", "9" * 5000)), "arch.yaml:3:8  width", "5,000 digits"),
    "a theta that is no number": (with_(("1e4", ".nan")), "arch.yaml:7:97  blocks.a.mixer.position.theta", "finite"),
    "an infinite theta": (with_(("1e4", ".inf")), "arch.yaml:7:97  blocks.a.mixer.position.theta", "finite"),
    "a theta of zero": (with_(("1e4", "0")), "arch.yaml:7:97  blocks.a.mixer.position.theta", "0 is out of range"),
    "a name that is a number": (with_(("good", "12")), "arch.yaml:1:7  name", "12 where text is due"),
    "a description that is a list": (top("description: [a]"), "arch.yaml:11:14  description", "where text is due"),
    # keys and kinds
    "an unknown key": (with_(("width:", "widht:")), "arch.yaml:3:8  widht", "fix: did you mean 'width'?"),
    "an unknown key inside": (with_(("kv_heads", "kv_head")), "arch.yaml:7:49  blocks.a.mixer.kv_head", "'kv_heads'?"),
    "an unknown key like no other": (top("zzz: 1"), "arch.yaml:11:6  zzz", "the fields here are name, vocab_size"),
    "a Cyrillic key": (with_(("width", "w\u0456dth")), "arch.yaml:3:1", "U+0456", "type 'width' in ASCII"),
    "a key of the block written above it": (top("norm_place: pre"), "arch.yaml:11:13  norm_place", "unknown key"),
    "an include": (top("include: ../../etc/passwd"), "arch.yaml:11:10  include", "unknown key 'include'"),
    "an include of a device": (top("include: /dev/zero"), "arch.yaml:11:10  include", "unknown key 'include'"),
    "an include of itself": (top("include: arch.yaml"), "arch.yaml:11:10  include", "unknown key 'include'"),
    "a misspelt kind": (with_(("attention", "atention")), "arch.yaml:7:19  blocks.a.mixer.kind", "mean 'attention'?"),
    "a kind that is a number": (with_(("attention", "1")), "arch.yaml:7:19  blocks.a.mixer.kind", "attention"),
    "a kind that is a list": (with_(("attention", "[attention]")), "arch.yaml:7:19  blocks.a.mixer.kind", "no mixer"),
    "no kind": (with_(("kind: attention, ", "")), "arch.yaml:7:5  blocks.a.mixer", "which kind", "add kind: attention"),
    "a misspelt bare name": (top("norm: rmsnrom"), "arch.yaml:11:7  norm.kind", "did you mean 'rmsnorm'?"),
    "a choice there is not": (with_(("heads: 4,", "heads: 4, bias: some,")), "blocks.a.mixer.bias", "'none', 'qkv'"),
    "no head": (top("head: none"), "arch.yaml:11:7  head", "where a mapping is due"),
    # shapes
    "a list for a mapping": (with_(("{kind: attention", "[{kind: attention"), ("1e4}}", "1e4}}]")), "a mapping is due"),
    "a mapping for the layers": (with_(("(a b)*2", "{a: b}")), "arch.yaml:10:1  layers", "text or a list is due"),
    "numbers among the layers": (with_(("(a b)*2", "[a, 1]")), "arch.yaml:10:13  layers.1", "1 where text is due"),
    "blocks as a list": (with_(("blocks:\n", "blocks: [x]\nextra:\n")), "arch.yaml:5:9  blocks", "a mapping is due"),
    "no blocks": ("name: x\nvocab_size: 3\nwidth: 4\ncontext: 5\nblocks: {}\nlayers: a\n", "arch.yaml:5:", "no blocks"),
    "a block of nothing": (with_(("layers", "  c: {}\nlayers")), "arch.yaml:10:3  blocks.c", "this block does nothing"),
    "a block without a value": (with_(("layers", "  c:\nlayers")), "arch.yaml:10:5  blocks.c", "null where a mapping"),
    "nothing but a name": ("name: x\n", "arch.yaml:1:1", "vocab_size is missing", "add vocab_size: <a whole number>"),
    # names
    "a name that climbs": (with_(("good", "../x")), "arch.yaml:1:7  name", "'../x' cannot name files and folders"),
    "a name that is a flag": (with_(("good", "-rf")), "arch.yaml:1:7  name", "start with a letter or digit"),
    "a name of 300 bytes": (with_(("good", "n" * 300)), "arch.yaml:1:7  name", "nnn...' cannot name files"),
    "a name with a terminal command": (with_(("good", '"\\e[2J"')), "arch.yaml:1:7  name", "U+001B ESCAPE"),
    "a block name with a space": (with_(("  b:", "  'b c':")), "arch.yaml:9:3  blocks.b c", "cannot stand in a layer"),
    "a block name with a dot": (with_(("  b:", "  b.c:")), "blocks.b.c", "'b.c' cannot stand in a layer line"),
    "a block name that is a number": (with_(("  b:", "  1:")), "arch.yaml:9:3  blocks.1", "cannot stand in a layer"),
    # extends
    "a block that extends itself": (with_(("extends: a", "extends: b")), "arch.yaml:9:16  blocks.b.extends", "b -> b"),
    "blocks that extend each other": (with_(("  a:\n", "  a:\n    extends: b\n")), "goes in a circle: a -> b -> a"),
    "a parent there is not": (with_(("extends: a", "extends: aa")), "arch.yaml:9:16", "did you mean 'a'?"),
    "two parents": (with_(("extends: a", "extends: [a]")), "arch.yaml:9:16", "takes the name of one block"),
    "a parent that is a number": (with_(("extends: a", "extends: 1")), "arch.yaml:9:16", "the name of one block"),
    "a field of a removed mixer": (
        with_(("  a:\n    mixer:", "  a:\n    mixer: none\n    x:")), "blocks.a.x", "unknown key 'x'"
    ),
    "a child whose kind lost its parent's fields": (
        with_(("ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 32}}", "ffn: {kind: mlp}")),
        "arch.yaml:9:19  blocks.b.ffn", "hidden is missing",
    ),
    # dimensions that do not fit together
    "heads that do not divide": (with_(("kv_heads: 2", "kv_heads: 3")), "3 does not divide heads=4", "1, 2, 4"),
    "heads that do not divide the width": (with_(("heads: 4, ", "heads: 5, ")), "arch.yaml:7:37", "width=32"),
    "odd heads under rotary positions": (with_(("heads: 4, ", "heads: 4, head_width: 7, ")), "use an even head_width"),
    "more experts chosen than there are": (with_(("top_k: 2", "top_k: 5")), "arch.yaml:9:55", "use at most 4"),
    "a window past the context": (with_(("causal", "causal & sliding(49)")), "arch.yaml:7:59", "at most 48"),
    "an expert that is a mixture": (
        with_(("expert: {", "expert: {kind: moe, experts: 2, top_k: 1, expert: {"), ("32}}}", "32}}}}")),
        "arch.yaml:9:58  blocks.b.ffn.expert", "an expert cannot be a mixture itself",
    ),
    "learned positions inside attention": (with_(("{kind: rope, theta: 1e4}", "learned")), "move it to embedding"),
    "rotary positions on the embedding": (top("embedding: {position: rope}"), "arch.yaml:11:13", "to each mixer"),
    "a table shorter than the context": (
        top("embedding: {position: {kind: learned, size: 16}}"), "arch.yaml:11:45", "16 learned positions cannot hold"
    ),
    "more rows at first than ever": (
        top("embedding: {position: {kind: learned, size: 64, start: 65}}"), "arch.yaml:11:56", "use at most 64"
    ),
    "a tokens' scale of zero": (top("embedding: {scale: 0}"), "arch.yaml:11:20  embedding.scale", "positive number"),
    "more parameters than anyone builds": (
        with_(("32", "2147483644"), ("64\n", "2147483647\n"), ("heads: 4, kv_heads: 2", "heads: 536870911")),
        "arch.yaml:3:8  width", "parameters are more than anyone builds",
    ),
    # patterns
    "a comma that broke a mapping": (with_(("causal,", "dilated(8, every=4),")), '"dilated(8, every=4)"'),
    "both and either at once": (with_(("causal,", "causal & sliding(4) | sinks(2),")), "write (causal & sliding(4)) |"),
    "a look into the future": (with_(("causal,", "everything,")), "arch.yaml:7:59", "write causal & everything"),
    "a look half into the future": (with_(("causal,", "sliding(4) | around(2),")), "write causal & (sliding(4) |"),
    "queries that see nothing": (with_(("causal,", '"causal & global(every=4, offset=1)",')), "positions 0 see no key"),
    "a pattern there is not": (with_(("causal,", "caussal,")), "arch.yaml:7:59", "did you mean 'causal'?"),
    "a pattern of no text": (with_(("causal,", "'',")), "arch.yaml:7:59", "the pattern is empty"),
    "a window of zero": (with_(("causal,", "sliding(0),")), "window must be at least 1"),
    "a window of 5,000 digits": (with_(("causal,", f"sliding({'9' * 900}),")), "window must be below 2**40"),
    "2,000 parentheses": (with_(("causal,", "(" * 450 + "causal" + ")" * 450 + ",")), "parentheses inside each other"),
    "a pattern longer than a page": (with_(("causal,", "causal" + " & causal" * 200 + ",")), "write a shorter pattern"),
    "blocks that meet nowhere": (
        with_(("48", "2147483647"), ("causal,", "causal & block(1009) & block(1013) & block(1019),")),
        "arch.yaml:7:", "cannot be counted in a short sum",
    ),
    "periods too long to look through": (
        with_(("48", "2147483647"), ("causal,", "causal & block(1073741824) & global(every=1073741824),")),
        "arch.yaml:7:", "repeat so rarely",
    ),
    "steps without a common multiple": (
        with_(("causal,", "causal & stride(1048583) & stride(1048589),")), "arch.yaml:7:59", "least common multiple"
    ),
    # numbers that leave the numbers
    "a head of 2^31 channels": (with_(("heads: 4,", "heads: 4, head_width: 2147483646,")), "at most 8,192"),
    "yarn on a theta of one": (
        with_(("1e4", "1, scaling: {kind: yarn, factor: 4, original_context: 8}")), "theta", "no finite numbers"
    ),
    "yarn that never turns": (
        with_(("1e4", "1e4, scaling: {kind: yarn, factor: 4, original_context: 8, slow: 5e-324, fast: 5e-324}")),
        "no finite numbers",
    ),
    "a factor next to nothing": (with_(("1e4", "1e4, scaling: {kind: linear, factor: 5e-324}")), "no finite numbers"),
    "a theta next to nothing": (with_(("1e4", "5e-324"), ("heads: 4,", "heads: 4, head_width: 64,")), "no finite"),
    "a temperature without end": (
        with_(("1e4", "1e4, scaling: {kind: yarn, factor: 4, original_context: 64, temperature: 1.7e308}")),
        "no finite numbers",
    ),
    "a ramp without room": (
        with_(("1e4", "1e4, scaling: {kind: llama3, factor: 8, original_context: 8, low: 4, high: 1}")), "high=1 must"
    ),
    # arithmetic
    **{
        f"score_scale {scale[:24]}": (with_(("heads: 4,", f"heads: 4, score_scale: {scale},")), "arch.yaml:7:53", what)
        for scale, what in {
            "1/0": "divides by zero",
            "0": "0 where a positive number is due",
            "-1": "-1 where a positive number is due",
            "1e308*1e308": "which is inf,",
            "1e400": "too large for a double",
            "1/1e-400": "divides by zero",
            "true": "true where a number or text is due",
            "sqrt(width": "never closed",
            "widht": "cannot read 'widht'",
            "''": "cannot read 'the end'",
            "width**9999": "cannot read",
            f"{'sqrt(' * 2000}width{')' * 2000}": "at most 100 characters",
            "\"__import__('os').system('ls')\"": "cannot read",
            '"().__class__"': "cannot read",
        }.items()
    },
    # layer lines
    "no layers": (with_(("(a b)*2", "")), "arch.yaml:10:8  layers", "null where text or a list is due"),
    "blank layers": (with_(("(a b)*2", '"   "')), "arch.yaml:10:9  layers", "name at least one block"),
    "layers of an empty list": (with_(("(a b)*2", "[]")), "arch.yaml:10:9  layers", "name at least one block"),
    "layers of an empty line": (with_(("(a b)*2", '["", a]')), "arch.yaml:10:10  layers.0", "name at least one block"),
    "a block there is not": (with_(("(a b)*2", "(a c)*2")), "no block 'c' (character 4)", "the blocks are a, b"),
    "a Cyrillic block": (with_(("(a b)*2", "(\u0430 b)*2")), "U+0430", "type 'a' in ASCII"),
    "10^23 layers": (with_(("(a b)*2", f"a*{10**23}")), "arch.yaml:10:9  layers", "100,000,000,000,000,000,000,000"),
    "10,001 layers": (with_(("(a b)*2", "a*10001")), "10,001 layers; the limit is 10,000"),
    "layers that multiply": (with_(("(a b)*2", "(((a*99)*99)*99)*99")), "96,059,601 layers"),
    "layers that multiply without end": (with_(("(a b)*2", "a" + "*99999" * 60)), "layers; the limit is 10,000"),
    "no times a block": (with_(("(a b)*2", "a*0")), "'*' needs a count of at least 1"),
    "an open parenthesis": (with_(("(a b)*2", "(a b*2")), "this '(' is never closed"),
    "5,000 parentheses": (with_(("(a b)*2", "(" * 5000 + "a" + ")" * 5000)), "nest more than 64 deep"),
    "stacked lines of unequal length": (with_(("(a b)*2", "[a*4, b*3]")), "arch.yaml:10:9", "these have 4, 3"),
    "stacked blocks that clash": (with_(("(a b)*2", "[a*4, b*4]")), "both set ffn, mixer"),
    # claims
    "a claim of lots": (top("claims: [{about: parameters, says: lots}]"), "arch.yaml:11:36  claims.0.says", "lots"),
    "a claim in tokens": (top("claims: [{about: kv_cache, says: 5 tokens}]"), "arch.yaml:11:34", "unknown unit"),
    "a claim that is a number": (top("claims: [{about: parameters, says: 12}]"), "claims.0.says", "where text is due"),
    "a claim about nothing": (top("claims: [{about: beauty, says: 1B}]"), "claims.0.about", '"beauty" is not one of'),
    "a claim for no context": (top("claims: [{about: kv_cache, says: 1 GB, context: 0}]"), "claims.0.context", "range"),
    # the text itself, where no line is a field
    "nothing": ("", "arch.yaml", "the document is empty"),
    "a list": ("- a\n- b\n", "arch.yaml:1:1", "this is a list"),
    "two documents": (GOOD + "---\n" + GOOD, "arch.yaml:11:1", "a second document starts here"),
    "an anchor": (with_(("32", "&w 32")), "arch.yaml:3:8  width", "anchors (&w) are not read"),
    "a tag": (with_(("32", "!!int 32")), "arch.yaml:3:8  width", "tags"),
    "a duplicate key": (top("width: 64"), "arch.yaml:11:1", "duplicate key 'width'; it was first written on line 3"),
    "a tab": (with_(("  a:", "\ta:")), "arch.yaml:6:1", "a tab"),
    "a byte-order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "arch.yaml:1:1", "byte order mark"),
    "UTF-16": (GOOD.encode("utf-16"), "arch.yaml:1:1", "UTF-16"),
    "a NUL": (with_(("good", "go\0od")), "arch.yaml:1:9", "U+0000 NUL"),
    "5,000 levels": (top("x: " + "[" * 5000), "arch.yaml:11:", "nested more than 64 levels deep"),
    "an alias bomb": (
        top("x: &x [y, y]\n" + "\n".join(f"x{i}: &x{i} [{'*x, ' * 9}]" for i in range(9))), "anchors", "aliases"
    ),
    "an alias of itself": (top("x: &x [*x]"), "arch.yaml:11:4  x", "anchors (&x) are not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bad_spec_is_refused_at_its_place_with_the_way_out(name, refused):
    text, *said = CASES[name]
    message = refused("size", written(text))
    assert message.startswith("error: arch.yaml")
    assert "\n  fix: " in message
    for fragment in said:
        assert fragment in message


def test_the_message_about_heads_is_the_one_of_the_design(refused):
    text = with_(("heads: 4, kv_heads: 2", "heads: 8, kv_heads: 3"))
    assert refused("size", written(text)) == (
        "error: arch.yaml:7:50  blocks.a.mixer.kv_heads\n  3 does not divide heads=8\n  fix: use one of 1, 2, 4, 8\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        "size arch.yaml",
        "show arch.yaml --json",
        "diff fine.yaml arch.yaml",
        "check arch.yaml",
        "train arch.yaml --data d --out o --dry-run",
        "train arch.yaml --data d --out o --steps 1",
    ],
)
@pytest.mark.parametrize("name", ["an unknown key", "heads that do not divide", "10^23 layers", "an alias bomb"])
def test_every_verb_that_reads_a_spec_refuses_it_in_the_same_words(name, command, refused):
    text, *_ = CASES[name]
    assert refused(*command.replace("arch.yaml", written(text)).split()) == refused("size", "arch.yaml")


# ----------------------------------------------------------------------------------------------------------------------
# All at once


def lines_of(message: str) -> list[int]:
    return [int(line.split(":")[2]) for line in message.splitlines() if line.startswith("error: arch.yaml:")]


def test_five_mistakes_of_form_are_five_findings_in_the_order_of_the_file(refused):
    changes = ("width:", "widht:"), ("heads: 4", "heads: four"), ("theta", "thteta"), ("top_k: 2", "top_k: 2.0")
    message = refused("size", written(with_(*changes, ("(a b)", "(a c)"))))
    assert lines_of(message) == [3, 7, 7, 9, 10]
    assert message.count("fix: ") == 5


def test_five_mistakes_of_meaning_are_five_findings_in_the_order_of_the_file(refused):
    changes = ("good", "-rf"), ("kv_heads: 2", "kv_heads: 3"), ("sees: causal", "sees: caussal")
    message = refused("size", written(with_(*changes, ("top_k: 2", "top_k: 9"), ("(a b)", "(a c)"))))
    assert lines_of(message) == [1, 7, 7, 9, 10]


def test_mistakes_of_form_do_not_hide_mistakes_of_meaning_in_other_blocks(refused):
    message = refused("size", written(with_(("hidden: 64", "hiden: 64"), ("(a b)", "(b c)")) + "head: {tied: 3}\n"))
    assert lines_of(message) == [8, 10, 11]
    message = refused("size", written(with_(("kv_heads: 2", "kv_heads: 3"), ("top_k: 2", "top_k: no"))))
    assert lines_of(message) == [7, 9]


def test_five_mistakes_of_writing_are_five_findings(refused):
    changes = ("good", "&x good"), ("64\n", "0x40\n"), ("32", "032"), ("48", "48\nx: !t 9"), ("1e4", ".nan")
    assert lines_of(refused("size", written(with_(*changes)))) == [1, 2, 3, 5, 8]


def test_an_inherited_mistake_is_reported_once_where_it_was_written(refused):
    text = repeated(50, "{extends: a}").replace("kv_heads: 2", "kv_heads: 3")
    message = refused("size", written(text))
    assert lines_of(message) == [7]


def test_a_mistake_in_a_setting_points_at_the_setting_and_one_in_the_file_at_the_file(refused):
    text = with_(("top_k: 2", "top_k: 9"))
    message = refused("size", written(text), "--set", "blocks.a.mixer.kv_heads=3")
    assert "error: --set blocks.a.mixer.kv_heads=3:1:25  blocks.a.mixer.kv_heads\n" in message
    assert "error: arch.yaml:9:55  blocks.b.ffn.top_k\n" in message


def repeated(count: int, block: str) -> str:
    """The good spec with many more blocks, NUMBER standing for the number of each."""
    blocks = "".join(f"  c{i}: {block.replace('NUMBER', str(i))}\n" for i in range(count))
    return with_(("layers", f"{blocks}layers"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(with_(("(a b)*2", "[" + "1, " * 40_000 + "a]")), id="40,000 numbers among the layers"),
        pytest.param(GOOD + "".join(f"k{i}: 1\n" for i in range(20_000)), id="20,000 unknown keys"),
        pytest.param(top("claims: [" + "{says: 1}, " * 9_000 + "]"), id="9,000 claims about nothing"),
        pytest.param(top("claims: [" + "{about: parameters, says: x}, " * 9_000 + "]"), id="9,000 unreadable claims"),
        pytest.param(repeated(9_000, "{extends: cNUMBER}"), id="9,000 circles"),
        pytest.param(repeated(6_000, "{ffn: {kind: mlp}}"), id="6,000 blocks that lack a field"),
        pytest.param(repeated(5_000, "{mixer: {kind: attention, heads: 5}}"), id="5,000 blocks of too many heads"),
    ],
)
def test_thousands_of_mistakes_are_twenty_findings_and_a_number(text, refused):
    message = refused("size", written(text))
    assert message.count("error: ") == 21
    assert "more findings\n" in message


# ----------------------------------------------------------------------------------------------------------------------
# Large, odd, and right


@pytest.fixture
def size_of(here, capsys):
    """The bill of a spec that is right, as data."""

    def call(text: str, *options: str) -> dict:
        code = run(["size", written(text), "--json", *options])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return json.loads(shown.out)

    return call


@pytest.mark.slow
def test_ten_thousand_layers_are_counted(size_of):
    one, all_ = (size_of(with_(("(a b)*2", line)))["parameters"] for line in ("a*1", "a*10000"))
    both = size_of(with_(("(a b)*2", "a*2")))["parameters"]
    assert all_["total"] - one["total"] == 9_999 * (both["total"] - one["total"])


def test_the_smallest_architecture_of_all_has_a_bill_and_a_picture(size_of, capsys):
    text = (
        "name: one\nvocab_size: 1\nwidth: 1\ncontext: 1\nlayers: a\nblocks: {a: {mixer: {kind: attention, heads: 1}}}\n"
    )
    # A table, four maps, a gain before and one after, and the unembedding.
    assert size_of(text)["parameters"]["total"] == 1 + 4 + 1 + 1 + 1
    assert run(["show", "arch.yaml"]) == 0
    assert "one" in capsys.readouterr().out


def test_numbers_near_the_limits_are_counted_exactly(size_of):
    text = (
        "name: huge\nvocab_size: 2147483647\nwidth: 64\ncontext: 2147483647\n"
        "blocks: {a: {mixer: {kind: attention, heads: 2147483647, kv_heads: 1, head_width: 64}, norm_place: none}}\n"
        "layers: a\nhead: {kind: lm, tied: true}\n"
    )
    bill = size_of(text, "--dtype", "fp64", "--batch", "2147483647")
    limit = 2**31 - 1
    assert bill["parameters"]["total"] == limit * 64 + 2 * limit * 64 * 64 + 2 * 64 * 64
    assert bill["memory"]["kv_cache_bytes"] == 2 * 64 * limit * limit * 8


@pytest.mark.slow
def test_thousands_of_blocks_are_read(size_of):
    text = repeated(2_000, "{extends: a}").replace("(a b)*2", " ".join(f"c{i}" for i in range(2_000)))
    assert len(size_of(text)["layers"]) == 2_000


def test_a_shorter_context_than_a_window_is_fine_when_running(size_of):
    text = with_(("causal", "causal & sliding(40)"))
    assert size_of(text, "--context", "8")["context"] == 8


def test_windows_line_ends_are_line_ends(size_of):
    assert size_of(GOOD.replace("\n", "\r\n")) == size_of(GOOD)


def test_a_message_counts_lines_alike_under_windows_line_ends(refused):
    text = with_(("top_k: 2", "top_k: 5"))
    assert refused("size", written(text)) == refused("size", written(text.replace("\n", "\r\n")))


def test_a_truth_value_of_yaml_1_1_is_text(size_of):
    assert size_of(with_(("good", "no")))["name"] == "no"


def test_an_expression_may_nest(size_of):
    size_of(with_(("heads: 4,", "heads: 4, score_scale: 1/sqrt(sqrt(sqrt(width*head_width))),")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("verb", ["size", "show", "check", "train"])
@pytest.mark.parametrize(
    ("place", "what"), [("/dev/zero", "a device"), ("pipe.yaml", "a named pipe"), (".", "a directory")]
)
def test_what_is_no_file_is_no_spec(verb, place, what, refused):
    if not Path("pipe.yaml").exists():
        os.mkfifo("pipe.yaml")
    assert f"this is {what}" in refused(verb, place)

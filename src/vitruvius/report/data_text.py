"""The statistics of prepared data in words and columns: what the terminal shows, and what page and picture share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.data_funnel import SORT_NAMES
from vitruvius.report.tables import columns
from vitruvius.spec.reporting import printable
from vitruvius.units import exact, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Statistics = Mapping[str, Any]


COUNTS_HEAD = ("", "documents", "tokens", "text bytes", "bytes per token")
COUNTS_ALIGN = "<>>>>"
LENGTHS_ALIGN = "<>>>"
LONGER_HEAD = ("longer than", "documents", "share", "their tokens", "share")
LONGER_ALIGN = ">>>>>"
CONTEXT_HEAD = (
    "context",
    "documents cut off",
    "tokens cut off",
    "slots left empty",
    "documents cut when packed",
)
CONTEXT_ALIGN = ">>>>>"
_NAME = 60


def lead(statistics: Statistics) -> str:
    """The data in a sentence."""
    whole, funnel = statistics["whole"], statistics["funnel"]
    return (
        f"{exact(whole['documents'])} documents of {exact(funnel['documents_in'])} read, "
        f"{format_count(whole['tokens'])} tokens, {format_bytes(whole['text_bytes'])} of text, "
        f"vocabulary {exact(statistics['vocab_size'])}"
    )


def count_rows(statistics: Statistics) -> list[tuple[str, ...]]:
    """Splits, sources and the whole."""
    rows = [_counted(split["name"], split) for split in statistics["splits"]]
    sources = statistics["sources"]
    if len(sources) > 1:
        for source in sources:
            weight = "" if source["weight"] is None else f", weight {source['weight']:g}"
            rows.append(_counted(f"source {source['name']}{weight}", source))
    return [*rows, _counted("all", statistics["whole"])]


def _counted(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, *(exact(part[key]) for key in ("documents", "tokens", "text_bytes")), ratio(part["bytes_per_token"]))


def ratio(value: float | None, digits: int = 3) -> str:
    """A number that may be unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent that is never 0% for something, nor 100% for less than everything."""
    if value is None:
        return "-"
    if 0 < value < 0.00005:
        return "<0.01%"
    if 0.99995 <= value < 1:
        return ">99.99%"
    return f"{value:.2%}"


def funnel_rows(statistics: Statistics) -> list[tuple[str, ...]]:
    """In, every reason, out: (what, documents, share, meaning)."""
    funnel = statistics["funnel"]
    total = funnel["documents_in"]
    rows = [("in", exact(total), "", "documents, and records that were to be one")]
    for row in funnel["dropped"]:
        meaning = row["meaning"] or ""
        rows.append(
            (
                f"  {printable(row['reason'], _NAME)}",
                exact(row["documents"]),
                share(row["documents"] / total if total else None),
                f"{SORT_NAMES[row['sort']]}: {meaning}" if meaning else SORT_NAMES[row["sort"]],
            )
        )
    out = funnel["documents_out"]
    return [*rows, ("= out", exact(out), share(out / total if total else None), "kept")]


def changed_rows(statistics: Statistics) -> list[tuple[str, ...]]:
    """(change, how many, what it is)."""
    return [(row["name"], exact(row["count"]), row["meaning"] or "") for row in statistics["changed"]]


def shown_splits(statistics: Statistics) -> list[str]:
    """The splits that have documents, and all where they are several."""
    there = [split["name"] for split in statistics["splits"] if split["documents"]]
    return [*there, "all"] if len(there) > 1 else there


def length_rows(statistics: Statistics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(head, rows) of the quantiles by split."""
    names = shown_splits(statistics)
    parts = [statistics["lengths"][name] for name in names]
    rows = [("shortest", *(exact(part["shortest"]) for part in parts))]
    for quantile in parts[0]["quantiles"] if parts else ():
        name = "median" if quantile == "0.5" else f"{100 * float(quantile):g}%"
        rows.append((name, *(exact(part["quantiles"][quantile]) for part in parts)))
    rows.append(("longest", *(exact(part["longest"]) for part in parts)))
    rows.append(("mean", *(f"{part['mean']:,.1f}" for part in parts)))
    rows.append(
        ("half of the tokens are in documents up to", *(exact(part["token_weighted_median"]) for part in parts))
    )
    return ("tokens in a document", *names), rows if parts else []


def longer_rows(statistics: Statistics) -> list[tuple[str, ...]]:
    """Documents over each length, up to the first that none is over."""
    lengths = statistics["lengths"]["all"]
    rows: list[tuple[str, ...]] = []
    for row in lengths["longer_than"] if lengths else ():
        shares = (share(row["documents_share"]), exact(row["tokens"]), share(row["tokens_share"]))
        rows.append((exact(row["tokens_over"]), exact(row["documents"]), *shares))
        if not row["documents"]:
            break
    return rows


def context_rows(statistics: Statistics) -> list[tuple[str, ...]]:
    """What each context does to the training split: rows of one document, and rows packed without gaps."""
    lengths = statistics["lengths"]["train"]
    if not lengths:
        return []
    return [
        (
            exact(one["context"]),
            share(one["documents_truncated"] / lengths["documents"]),
            share(one["tokens_truncated_share"]),
            share(one["slots_empty_share"]),
            share(packed["documents_cut"] / lengths["documents"]),
        )
        for one, packed in zip(lengths["contexts"], statistics["packing"], strict=True)
    ]


def frequency_lines(statistics: Statistics) -> list[str]:
    """What there is to say about how often tokens occur."""
    tokens = statistics["tokens"]
    if tokens is None:
        return []
    train = tokens["train"]
    special = f", {exact(train['unused_special'])} of them special" if train["unused_special"] else ""
    used = f"used: {exact(train['used'])} of {exact(train['vocab_size'])} ids"
    unused = f"never in training: {exact(train['unused'])} ({share(train['unused_share'])}{special})"
    entropy = f"entropy of one token {ratio(train['entropy_bits'], 2)} bits"
    lines = [
        f"{used}; {unused}; fewer than {train['rare_below']} times: {exact(train['rare'])}",
        f"half of the text is made of the {exact(train['tokens_for_half'])} most frequent ids; {entropy}",
    ]
    if zipf := train["zipf"]:
        lines.append(
            f"Zipf: occurrences ~ rank^-{zipf['exponent']:.3f} (least squares over ranks {exact(zipf['from_rank'])} to "
            f"{exact(zipf['to_rank'])}, equally spaced in the logarithm; R2 {zipf['r_squared']:.4f})"
        )
    if tokens["validation_only"]:
        lines.append(
            f"validation uses {exact(tokens['validation_only'])} ids that training never shows, "
            f"{exact(tokens['validation_only_tokens'])} times"
        )
    return lines


def shown_token(text: str) -> str:
    """A token as people can see it: a blank is a low line box."""
    return printable(text.replace(" ", "␣"), 40) or "(no text)"


def frequent_rows(statistics: Statistics, most: int = 25) -> list[tuple[str, ...]]:
    """(id, token, occurrences, share) of the most frequent."""
    tokens = statistics["tokens"]
    return [
        (exact(row["id"]), shown_token(row["text"]), exact(row["count"]), share(row["share"]))
        for row in (tokens["train"]["most_frequent"][:most] if tokens else ())
    ]


def overlap_lines(statistics: Statistics) -> list[str]:
    """What training has shown of validation."""
    overlap = statistics["overlap"]
    if overlap is None:
        return []
    examined = exact(overlap["documents_examined"])
    of = f"{examined} of {exact(overlap['documents'])} (drawn)" if overlap["sampled"] else f"all {examined}"
    span = "" if overlap["ngram_bytes"] is None else f", about {overlap['ngram_bytes']:.0f} bytes"
    half = sum(row["documents"] for row in overlap["documents_by_share"] if row["from"] >= 0.5)
    return [
        (
            f"validation documents held against training: {of}; identical to one of training: "
            f"{exact(overlap['documents_identical_in_train'])}"
        ),
        (
            f"n-grams of {overlap['ngram_tokens']} tokens{span}: {exact(overlap['ngrams_in_train'])} of "
            f"{exact(overlap['ngrams'])} are in training ({share(overlap['ngrams_in_train_share'])})"
        ),
        (
            f"documents with half of their n-grams in training: {exact(half)}; with none: "
            f"{exact(overlap['documents_without_overlap'])}; too short for one: {exact(overlap['documents_too_short'])}"
        ),
    ]


def duplicate_lines(statistics: Statistics) -> list[str]:
    """Clusters of duplicates."""
    duplicates = statistics["duplicates"]
    lines: list[str] = []
    for name in ("exact", "near") if duplicates else ():
        found = duplicates[name]
        if found["dropped"]:
            lines.append(
                f"{name} duplicates: {exact(found['dropped'])} dropped, in {exact(found['clusters'])} clusters, "
                f"the largest of {exact(found['largest'])} documents"
            )
    if duplicates and duplicates["jaccard"]["documents"]:
        lines.append(f"the least alike near duplicate that was dropped: Jaccard {duplicates['jaccard']['lowest']:.4f}")
    return lines


def host_rows(statistics: Statistics, most: int) -> list[tuple[str, ...]]:
    """(host, documents, share of the documents that have an address)."""
    hosts = statistics["hosts"]
    if not hosts or not hosts["counted"]:
        return []
    return [
        (printable(row["name"], _NAME), exact(row["count"]), share(row["count"] / hosts["counted"]))
        for row in hosts["top"][:most]
    ]


def host_note(statistics: Statistics) -> str:
    """How many hosts there are, and how exact their counts."""
    hosts = statistics["hosts"]
    if not hosts or not hosts["counted"]:
        return ""
    several = exact(hosts["distinct"]) if hosts["distinct"] is not None else f"over {exact(hosts['distinct_at_least'])}"
    bound = hosts["short_by_at_most"]
    note = f"{several} hosts of {exact(hosts['counted'])} documents with an address"
    return note + (f"; each count may be low by up to {exact(bound)}" if bound else "")


# -------------------------------------------------------------------------------------------------------- terminal


def statistics_text(statistics: Statistics) -> str:
    """All of it, for the terminal."""
    return "\n\n".join("\n".join(block) for block in _blocks(statistics) if block)


def _blocks(statistics: Statistics) -> Iterator[Sequence[str]]:
    yield [lead(statistics)]
    yield columns([COUNTS_HEAD, *count_rows(statistics)], align=COUNTS_ALIGN)
    yield columns(funnel_rows(statistics), align="<>><")
    if changed := changed_rows(statistics):
        yield ["changed in documents that passed every rule", *columns(changed, align="<><")]
    head, rows = length_rows(statistics)
    yield columns([head, *rows], align="<" + ">" * (len(head) - 1)) if rows else []
    yield _histogram(statistics)
    yield columns([LONGER_HEAD, *longer_rows(statistics)], align=LONGER_ALIGN) if longer_rows(statistics) else []
    if contexts := context_rows(statistics):
        note = "training with one document in each row, or packed:"
        yield [note, *columns([CONTEXT_HEAD, *contexts], align=CONTEXT_ALIGN)]
    yield frequency_lines(statistics)
    if frequent := frequent_rows(statistics, 10):
        yield columns([("id", "token", "occurrences", "share"), *frequent], align="><>>")
    yield overlap_lines(statistics)
    yield duplicate_lines(statistics)
    if hosts := host_rows(statistics, 10):
        yield [host_note(statistics), *columns(hosts, align="<>>")]


def _histogram(statistics: Statistics) -> list[str]:
    """Documents by length, as bars."""
    lengths = statistics["lengths"]["all"]
    if not lengths:
        return []
    bins = [row for row in lengths["histogram"] if row["documents"]]
    most = max(row["documents"] for row in bins)
    rows = [
        (f"{row['above'] + 1:,}", "to", f"{row['up_to']:,}", exact(row["documents"]), _bar(row["documents"] / most))
        for row in bins
    ]
    return ["documents by tokens", *columns(rows, align="><>><")]


def _bar(part: float, width: int = 40) -> str:
    eighths = max(1, round(part * width * 8))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("" if not rest else "▏▎▍▌▋▊▉"[rest - 1])

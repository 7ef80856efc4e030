"""Requests with any pattern and any terms, and what every backend must make of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from vitruvius.nn.backends import BACKENDS, Request, TableBias
from vitruvius.nn.place import Place, place_packed
from vitruvius.patterns import parse

TERMS = st.one_of(
    st.just("causal"),
    st.integers(1, 40).map("sliding({})".format),
    st.integers(1, 6).map("sinks({})".format),
    st.tuples(st.integers(1, 12), st.integers(0, 3)).map(lambda t: f"global(every={t[0] + t[1]}, offset={t[1]})"),
    st.tuples(st.integers(1, 9), st.integers(1, 5)).map(lambda t: f"dilated({t[0]}, every={t[1]})"),
    st.integers(1, 30).map("block({})".format),
    st.integers(1, 7).map("stride({})".format),
    st.tuples(st.integers(1, 4), st.integers(1, 5)).map(lambda t: f"stride2d({t[0]}, {t[1]})"),
    st.sampled_from(
        [
            "where((q - k) % 7 == 3)",
            "where(q // 16 - k // 16 <= 1)",
            "where((q + 1) // 2 == k + 1)",
            "where(k % (q // 8 + 1) == 0)",
        ]
    ),
)
UNIONS = st.lists(TERMS, min_size=1, max_size=3).map(lambda terms: f"causal & (sliding(1) | {' | '.join(terms)})")
FOLDING = st.tuples(st.integers(1, 9), st.integers(2, 5), st.integers(1, 9)).map(
    lambda t: f"causal & dilated({t[0]}, every={t[1]}) & block({t[1] * t[2]})"
)
BOTH_WAYS = st.one_of(
    st.integers(1, 30).map("around({})".format),
    st.tuples(st.integers(1, 30), st.integers(2, 5)).map(lambda t: f"around({t[0]}) & stride({t[1]})"),
)
PATTERNS = st.one_of(UNIONS, FOLDING, BOTH_WAYS, st.just("everything"), st.just("causal"))
NAMES = ["softcap", "bias", "table", "decay", "sink", "prefix"]


def buckets(q, k):
    return (q.unsqueeze(-1) - k.unsqueeze(-2)).abs().clamp(max=9)


def steeper_by_head(q, k, heads):
    slopes = torch.arange(1, heads + 1, dtype=torch.float64, device=q.device) / heads
    return -slopes[:, None, None] * (q.unsqueeze(-1) - k.unsqueeze(-2)).abs().unsqueeze(-3)


@dataclass
class Case:
    """A request and the tensors that gradients reach."""

    request: Request
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pattern,
        length,
        names=(),
        *,
        documents=None,
        seed=0,
        heads=4,
        groups=2,
        width=8,
        value_width=6,
        device="cpu",
        dtype=torch.float64,
    ):
        generator = torch.Generator().manual_seed(seed)

        def made(*shape):
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return drawn.to(device=device, dtype=dtype).requires_grad_()

        leaves = {
            "q": made(2, heads, length, width),
            "k": made(2, groups, length, width),
            "v": made(2, groups, length, value_width),
        }
        terms = {}
        if "softcap" in names:
            terms["softcap"] = 0.8
        if "bias" in names:
            terms["bias"] = steeper_by_head
        if "table" in names:
            leaves["table"] = made(10, heads)
            terms["table"] = TableBias(weight_RH=leaves["table"], index=buckets)
        if "decay" in names:
            leaves["gates_q"], leaves["gates_k"] = made(2, heads, length), made(2, heads, length)
            c_q, c_k = (torch.nn.functional.logsigmoid(leaves[n]).cumsum(-1) for n in ("gates_q", "gates_k"))
            terms["decay"] = (c_q, c_k)
        if "sink" in names:
            leaves["sink"] = made(heads)
            terms["sink_H"] = leaves["sink"]
        if "prefix" in names:
            terms["prefix_B"] = torch.randint(0, length + 3, (2,), generator=generator).to(device)
        positions = torch.arange(length, device=device) if documents is None else place_packed(documents)
        place = Place(positions=positions, documents=documents, prefix=terms.get("prefix_B"))
        return cls(Request(pattern=parse(pattern), scale=0.3, place=place, **terms), leaves)

    def results(self, backend):
        """Output and all gradients by one backend."""
        q, k, v = (self.leaves[name] for name in "qkv")
        out = BACKENDS[backend](q, k, v, self.request)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out)
        grads = torch.autograd.grad((out * weights).sum(), list(self.leaves.values()), retain_graph=True)
        return {"out": out.detach(), **dict(zip(self.leaves, grads, strict=True))}

    def assert_same(self, backend="chunked", bound=1e-9):
        expected = self.results("reference")
        for name, found in self.results(backend).items():
            assert torch.allclose(found, expected[name], rtol=0, atol=bound), name


@st.composite
def document_rows(draw, length):
    """Two rows cut into documents anywhere, with many short ones or a few long."""
    rows = torch.zeros(2, length, dtype=torch.int64)
    for row in rows:
        for cut in draw(st.lists(st.integers(1, max(1, length - 1)), max_size=12)):
            row[cut:] += 1
    return rows

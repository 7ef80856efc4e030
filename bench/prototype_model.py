"""Llama-shaped model from nn/ops, for measuring until the product's model exists."""
from __future__ import annotations
import torch
from torch import nn
import torch.nn.functional as F
from vitruvius.nn.ops import *
from vitruvius.nn.ops.attention import causal_blocks

class Block(nn.Module):
    def __init__(s, D, H, G, Fh):
        super().__init__()
        s.H, s.G, s.K = H, G, D // H
        mk = lambda o, i: nn.Parameter(torch.randn(o, i) * 0.02)
        s.q, s.k, s.v, s.o = mk(D, D), mk(G*s.K, D), mk(G*s.K, D), mk(D, D)
        s.gate, s.up, s.down = mk(Fh, D), mk(Fh, D), mk(D, Fh)
        s.n1, s.n2 = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
    def forward(s, x, cos, sin, blocks):
        B, T, D = x.shape
        h = rms_norm(x, s.n1, eps=1e-5)
        q, k, v = joint_linear(h, (s.q, s.k, s.v))
        q, k, v = (y.view(B, T, -1, s.K).transpose(1, 2) for y in (q, k, v))
        q, k = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
        a, _ = blockwise_attention(q, k, v, blocks=blocks)
        x = x + linear(a.transpose(1, 2).reshape(B, T, D), s.o)
        h = rms_norm(x, s.n2, eps=1e-5)
        return x + gated_ffn(h, s.gate, s.up, s.down)

class Llama(nn.Module):
    def __init__(s, V=8192, D=384, L=6, H=6, G=2, Fh=1024, block=128):
        super().__init__()
        s.emb = nn.Parameter(torch.randn(V, D) * 0.02)
        s.blocks = nn.ModuleList(Block(D, H, G, Fh) for _ in range(L))
        s.norm = nn.Parameter(torch.ones(D)); s.K = D // H; s.block = block
    def forward(s, tokens, targets):
        T = tokens.shape[1]
        inv = 1e4 ** (-torch.arange(0, s.K, 2) / s.K); ang = torch.arange(T)[:, None] * inv
        cos, sin = ang.cos(), ang.sin()
        blocks = causal_blocks(T, s.block)
        x = embedding(tokens, s.emb)
        for b in s.blocks: x = b(x, cos, sin, blocks)
        x = rms_norm(x, s.norm, eps=1e-5)
        return linear_cross_entropy(x.view(-1, x.shape[-1]), s.emb, targets.reshape(-1), reduction="mean")

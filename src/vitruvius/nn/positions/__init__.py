"""The Position contract: three hooks, of which a module has those that it needs.

    embed(x_BTD, positions)                   adds to the embedding
    rotate(q_BHTK, k_BGTK, positions)         turns queries and keys
    bias(q_positions, k_positions, heads)     a term for each score, [..., H, T, S]

`positions` are [T], or [B, T] when rows differ. Attention reads which hooks a module has, and refuses a module with
neither `rotate` nor `bias` when it is built. The name `logits` is reserved for kinds that compute scores with a kernel
of their own; until one exists, attention refuses modules that define it.
"""

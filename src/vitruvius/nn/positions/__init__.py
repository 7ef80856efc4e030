"""The Position contract: at most four hooks, each optional.

    embed(x_BTD, positions)                   adds to the embedding
    rotate(q_BHTK, k_BGTK, positions)         turns queries and keys
    bias(q_positions, k_positions)            a term for each score, [..., H, T, S]
    logits(q, k)                              scores of its own kernel (none of the kinds here)

`positions` are [T], or [B, T] when rows differ. Attention reads which hooks a module has.
"""

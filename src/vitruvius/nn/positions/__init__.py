"""The Position contract: hooks, of which a module has those that it needs.

On the embedding

    embed(x_BTD, place)                                  adds to the embedding

and inside attention, in this order

    rotate(q_BHTK, k_BGTK, positions)                    turns queries and keys by their positions
    turn(q_BHTK, k_BGTK, x_BTD, place, cache)            turns them by what was read so far
    bias(q_positions, k_positions, heads)                a constant for each score, [..., H, T, S]
    table_bias()                                         a learned term for each score, by distance (TableBias)
    decay(x_BTD, place, cache)                           c_BHT, at least fp32; scores gain c(query) - c(key)
    prune(q_BHTK, k_BGTK, readable, request, cache)      what of the cache a step reads: leaves out keys of no weight
    attend(q_BHTK, k_BGTK, v_BGTK, x_BTD, request, cache)    computes attention with a kernel of its own, out_BHTK

`positions` are [T], or [B, T] when rows differ. `cache` is the layer's `KeyValueStore` while decoding, else None: what
runs along is in `cache.running` (declared by the spec's `running_state`, zero where a sequence starts), and padding
must leave it alone (`vitruvius.nn.mixers.recurrent.real_tokens`). What `decay` returns is kept beside each key when
the spec's `slot_state` declares `decay`. A module with `attend` extends the cache itself.

A module is made with (spec, heads, scope, factory) inside attention, and with (spec, scope, factory) on the embedding.
Attention refuses a module with none of its hooks when it is built.
"""

"""How attention is computed: pattern, terms, device and dtype choose a backend from one table (`table.py`).

    reference   every score in the open, in the dtype of the inputs: what the others are held against
    sdpa        torch's scaled dot product attention, for plain causal attention and that of everyone to everyone
    chunked     blocks of queries over the keys their pattern allows: exact, memory linear in length, trains anywhere
    flex        torch's FlexAttention, compiled for a pattern and its terms: trains on CUDA

All of them take q_BHTK, k_BGTK, v_BGTK and a `Request`, and return out_BHTK. `attend_stored` is attention to keys in a
cache, which has a table of its own.
"""

from vitruvius.nn.backends.choosing import BACKENDS, attend, choose
from vitruvius.nn.backends.request import Asked, Request, TableBias
from vitruvius.nn.backends.stored import attend_stored

__all__ = ["BACKENDS", "Asked", "Request", "TableBias", "attend", "attend_stored", "choose"]

"""What modules do to memory, told without torch: a tape of operations and what it comes to (ADR 0014).

    tape.py, tape_ops.py, strides.py    the tape and the operations that stand on it
    replay.py                           the levels of memory, forwards and back
    activity.py                         a whole architecture: embedding, layers, loss
    attending*.py, running.py           attention, its kernels and what runs along a sequence inside it
    recurrences.py, linear_parts.py     linear-time mixers
    routing.py                          mixtures of experts
    losing.py                           the map to the vocabulary and its cross-entropy

Kinds describe themselves with these in their own files (`Component.trace`).
"""

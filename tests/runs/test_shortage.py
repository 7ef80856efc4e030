"""An error that says that memory ran out is known as one, by whichever library, and how much was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.runs.shortage import bytes_asked, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
WINDOWS = "DefaultCPUAllocator: not enough memory: you tried to allocate 81920 bytes."
CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.2 MiB is free"
)
ARRAY = "Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64"


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (RuntimeError(f"{CPU}4398046511104 bytes. Error code 12 (Cannot allocate memory)"), 4398046511104),
        (RuntimeError(WINDOWS), 81920),
        (OutOfMemoryError(CUDA), round(2.5 * 2**30)),
        (RuntimeError("CUDA error: out of memory"), None),
        (RuntimeError("std::bad_alloc"), None),
        (RuntimeError("could not create a primitive"), None),
        (RuntimeError("can't start new thread"), None),
        (ImportError("libx.so: failed to map segment from shared object"), None),
        (MemoryError(ARRAY), round(7.45 * 2**30)),
        (MemoryError(), None),
    ],
)
def test_a_shortage_is_known_with_the_bytes_that_were_asked_for(error: BaseException, asked: int | None) -> None:
    assert is_out_of_memory(error)
    assert bytes_asked(error) == asked


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        ValueError("out of memory"),
        KeyError("MemoryError"),
        OSError(12, "x"),
        ImportError("x"),
    ],
)
def test_another_error_is_no_shortage(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@given(st.text(max_size=200))
def test_no_message_is_too_odd_to_be_read(text: str) -> None:
    asked = bytes_asked(RuntimeError(f"tried to allocate {text}"))
    assert asked is None or asked >= 0


def test_a_cpus_number_is_exact_beyond_what_a_float_holds() -> None:
    assert bytes_asked(RuntimeError(f"{CPU}9007199254740993 bytes.")) == 9007199254740993

"""What memory there is, read from files that look like the kernel's."""

from __future__ import annotations

import pytest

from vitruvius.runs.available import available_memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """Write the files of a machine; give the arguments that read them."""

    def make(*, free_kib=None, cgroup="", files=None):
        proc, groups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        groups.mkdir()
        if free_kib is not None:
            (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {free_kib} kB\n")
        (proc / "self" / "cgroup").write_text(cgroup)
        for name, text in (files or {}).items():
            (groups / name).parent.mkdir(parents=True, exist_ok=True)
            (groups / name).write_text(text)
        return {"proc": proc, "groups": groups}

    return make


def test_without_limits_it_is_what_the_system_has(machine):
    found = available_memory(**machine(free_kib=3 << 20))
    assert (found.size, found.limit) == (3 * GIB, "memory that the system has available")


def test_a_tighter_control_group_counts_and_cached_files_are_given_up(machine):
    files = {
        "jobs/mine/memory.max": f"{2 * GIB}\n",
        "jobs/mine/memory.current": f"{GIB}\n",
        "jobs/mine/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        "jobs/memory.max": "max\n",
        "jobs/memory.current": f"{GIB}\n",
    }
    found = available_memory(**machine(free_kib=64 << 20, cgroup="0::/jobs/mine\n", files=files))
    assert found.size == 2 * GIB - GIB // 2
    assert "control group" in found.limit


def test_a_limit_further_up_counts_too(machine):
    files = {
        "jobs/mine/memory.max": "max\n",
        "jobs/mine/memory.current": "1\n",
        "jobs/memory.max": f"{GIB}\n",
        "jobs/memory.current": "0\n",
    }
    assert available_memory(**machine(free_kib=64 << 20, cgroup="0::/jobs/mine\n", files=files)).size == GIB


def test_the_first_version_of_control_groups_is_read_too(machine):
    files = {
        "memory/mine/memory.limit_in_bytes": f"{GIB}\n",
        "memory/mine/memory.usage_in_bytes": f"{GIB // 4}\n",
        "memory/mine/memory.stat": "total_inactive_file 0\n",
    }
    found = available_memory(**machine(free_kib=64 << 20, cgroup="4:cpu,memory:/mine\n3:pids:/x\n", files=files))
    assert found.size == GIB - GIB // 4


def test_a_limit_nobody_set_is_none(machine):
    files = {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n", "memory/memory.usage_in_bytes": "0\n"}
    assert available_memory(**machine(free_kib=1 << 20, cgroup="4:memory:/\n", files=files)).size == GIB


def test_a_group_that_is_full_leaves_nothing(machine):
    files = {"memory.max": "1000\n", "memory.current": "5000\n"}
    assert available_memory(**machine(free_kib=1 << 20, files=files)).size == 0


@pytest.mark.parametrize("garbage", ["", "MemAvailable: many kB\n", "MemAvailable:\n", "\x00\xff"])
def test_files_that_say_nothing_are_passed_over(machine, garbage):
    arguments = machine(cgroup="nonsense\n::\n0::\n", files={"memory.max": "lots\n", "memory.current": ""})
    (arguments["proc"] / "meminfo").write_bytes(garbage.encode("latin-1"))
    found = available_memory(**arguments)
    assert found is None or found.size > 0

"""How much memory this process may still take, before anything is allocated. Nothing is imported for it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """Memory that can be taken."""

    size: int
    """Bytes."""
    limit: str
    """What sets the limit, in words."""


def available_memory(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> Available | None:
    """The least of what the system has free and what control groups leave to this process; None where nobody tells.

    The system's number is MemAvailable of /proc/meminfo, or free pages where there is no such file. A control group's
    is its limit less what it uses, pages of files that it would give up again not counted (cgroup v2 and v1).
    """
    found = [each for each in (_of_system(proc), *_of_groups(proc, groups)) if each is not None]
    return min(found, key=lambda each: each.size, default=None)


def has_limited_addresses() -> bool:
    """Whether the address space of this process, and of those it starts, is limited (`ulimit -v`)."""
    if not sys.platform.startswith("linux"):
        return False
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _of_system(proc: Path) -> Available | None:
    for line in _text(proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemAvailable" and words and words[0].isdigit():
            return Available(size=int(words[0]) * 1024, limit="memory that the system has available")
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return Available(size=free, limit="free memory of the system") if free > 0 else None


def _of_groups(proc: Path, groups: Path) -> list[Available | None]:
    """Of each control group that this process is in, up to the root: any of them may be the tightest."""
    found: list[Available | None] = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        root = groups if not controllers else groups / "memory"
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(root):
                break
            found.append(_of_group(each))
    # Inside a container the group's own files often stand at the root, whatever path the process is told.
    return found or [_of_group(groups), _of_group(groups / "memory")]


_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_UNLIMITED = 1 << 60


def _of_group(folder: Path) -> Available | None:
    for limit_file, used_file, given_up in _FILES:
        limit, used = _text(folder / limit_file).strip(), _text(folder / used_file).strip()
        if limit.isdigit() and used.isdigit() and int(limit) < _UNLIMITED:
            stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            cached = stat.get(given_up, "0")
            kept = int(used) - (int(cached) if cached.isdigit() else 0)
            return Available(
                size=max(0, int(limit) - max(0, kept)), limit=f"the control group's limit of {int(limit):,} bytes"
            )
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

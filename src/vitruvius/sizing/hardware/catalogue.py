"""Finds devices: those of the catalogue, the machine at hand, and those of a user's own file."""

from __future__ import annotations

import difflib
import os
import stat
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.hardware.reading import devices_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.sizing.hardware.device import Device

THIS_MACHINE = "this-machine"
"""What `--on` calls the machine that `vitruvius bench --machine` measured."""

_LARGEST_FILE = 2**20


@cache
def catalogue() -> Mapping[str, Device]:
    """Every device that comes with vitruvius, by name, in the order of the files."""
    found: dict[str, Device] = {}
    folder = resources.files("vitruvius.sizing.hardware")
    for tier in ("consumer", "workstation", "data-centre", "apple", "cpu", "tpu"):
        text = (folder / f"{tier}.toml").read_text(encoding="utf-8")
        for name, device in devices_in(text, file=f"{tier}.toml", stem=tier).items():
            assert name not in found, name
            found[name] = device
    return MappingProxyType(found)


def device_named(name: str) -> Device:
    """The device of that name, of the file at that path, or the machine at hand (`this-machine`).

    Raises UsageError with the closest names, or with all that is wrong with the file.
    """
    if name in catalogue():
        return catalogue()[name]
    if name == THIS_MACHINE:
        return _this_machine()
    if name.endswith(".toml") or os.sep in name:
        devices = read_devices(name)
        if len(devices) > 1:
            what = f"{name} describes {len(devices)} devices: {', '.join(devices)}"
            raise UsageError(what, fix="give each a file of its own")
        return next(iter(devices.values()))
    raise UsageError(f"there is no device {name[:100]!r} in the catalogue", fix=_closest(name))


def read_devices(path: str | os.PathLike[str]) -> dict[str, Device]:
    """The devices that a TOML file describes, by name.

    Raises UsageError with every finding of the file at once, each with its key.
    """
    place = Path(path)
    shown = os.fspath(path)
    try:
        about = place.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UsageError("is no plain file", where=shown, fix="name a TOML file that describes a device")
        if about.st_size > _LARGEST_FILE:
            raise UsageError(f"has {about.st_size:,} bytes", where=shown, fix=f"at most {_LARGEST_FILE:,} are read")
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UsageError(str(why), where=shown, fix="name a TOML file that describes a device") from None
    return devices_in(text, file=shown, stem=place.stem)


def machine_file() -> Path:
    """Where `vitruvius bench --machine` writes what it measured, in the form of any hardware file."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "vitruvius" / "machine.toml"


def _this_machine() -> Device:
    path = machine_file()
    if not path.exists():
        raise UsageError(
            "this machine has not been measured yet",
            fix=f"vitruvius bench --machine measures it in a minute and writes {path}",
        )
    devices = read_devices(path)
    return devices.get(THIS_MACHINE) or next(iter(devices.values()))


def _closest(name: str) -> str:
    known = [*catalogue(), THIS_MACHINE]
    wanted = name[:100].lower().replace("_", "-").replace(" ", "-")
    near = [known_name for known_name in known if wanted and wanted in known_name][:4]
    near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "vitruvius hardware lists the devices; a path to a TOML file describes one of your own"

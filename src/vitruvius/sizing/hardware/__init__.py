"""Devices that models run on: dated TOML files, a source for each number."""

from vitruvius.sizing.hardware.catalogue import catalogue, device_named, read_devices
from vitruvius.sizing.hardware.device import Device, Efficiency

__all__ = ["Device", "Efficiency", "catalogue", "device_named", "read_devices"]

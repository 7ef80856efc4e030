"""The architecture as data: read it, write it, resolve it into layers, check that it fits together."""

from vitruvius.spec.graph import Graph, Layer, resolve
from vitruvius.spec.model import Architecture, Block, Claim
from vitruvius.spec.node import Component, Flops, Scope, TensorSpec, kinds, register
from vitruvius.spec.reading import (
    Reading,
    preset,
    preset_names,
    read,
    read_text,
    read_with_findings,
)
from vitruvius.spec.rules import ensure, findings
from vitruvius.spec.shrink import shrink
from vitruvius.spec.validating import from_plain
from vitruvius.spec.writing import to_data, to_yaml, write

__all__ = [
    "Architecture",
    "Block",
    "Claim",
    "Component",
    "Flops",
    "Graph",
    "Layer",
    "Reading",
    "Scope",
    "TensorSpec",
    "ensure",
    "findings",
    "from_plain",
    "kinds",
    "preset",
    "preset_names",
    "read",
    "read_text",
    "read_with_findings",
    "register",
    "resolve",
    "shrink",
    "to_data",
    "to_yaml",
    "write",
]

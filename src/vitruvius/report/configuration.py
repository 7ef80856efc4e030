"""The configuration reference of one spec: every field it has, its value, and what the field means."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from vitruvius.report.tables import code, markdown
from vitruvius.spec.node import Component, Node
from vitruvius.spec.rules import ensure
from vitruvius.spec.schema import field_docs, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a spec."""

    path: str
    """As `--set` takes it."""
    value: str
    """As a spec file has it."""
    is_default: bool
    about: str


def settings(architecture: Architecture) -> Iterator[Setting]:
    """Every field below the top of a spec, in the order of its dataclasses; blocks as they are after `extends`."""
    for field in fields(architecture):
        if field.name in {"blocks", "claims"}:
            continue
        yield from _setting(field.name, field, architecture)
    for name, block in architecture.blocks.items():
        for field in fields(block):
            yield from _setting(f"blocks.{name}.{field.name}", field, block)


def configuration_page(architecture: Architecture) -> str:
    """The configuration reference in Markdown. Raises SpecError when the architecture does not fit together."""
    ensure(architecture)
    rows = list(settings(architecture))
    top = [row for row in rows if not row.path.startswith("blocks.")]
    parts = [
        f"# Configuration of {architecture.name}",
        _INTRODUCTION,
        "## Architecture",
        _table(top),
    ]
    for name, block in architecture.blocks.items():
        prefix = f"blocks.{name}."
        inside = [row for row in rows if row.path.startswith(prefix)]
        kinds = [c for c in (block.mixer, block.cross, block.ffn) if c is not None]
        about = " ".join(f"`{c.kind}`: {summary(type(c))}" for c in kinds)
        parts += [f"## Block {code(name)}", about, _table(inside, prefix)]
    return "\n\n".join(part for part in parts if part) + "\n"


_INTRODUCTION = (
    "Every field of the spec with its value. **Bold** values were given; the others are defaults. The paths are "
    "those that `--set` takes; a part that is wholly left to its default is set as a whole."
)


def _table(rows: list[Setting], prefix: str = "") -> str:
    def shown(row: Setting) -> str:
        return code(row.value) if row.is_default else f"**{code(row.value)}**"

    lines = [(code(row.path.removeprefix(prefix)), shown(row), row.about) for row in rows]
    return markdown(("field", "value", "what it is"), lines)


def _setting(path: str, field: Any, owner: Node) -> Iterator[Setting]:
    value, about = getattr(owner, field.name), field_docs(type(owner)).get(field.name, "")
    if isinstance(value, Node):
        if isinstance(value, Component):
            default = _default(field)
            yield Setting(
                path=path,
                value=value.kind,
                is_default=isinstance(default, Component) and default.kind == value.kind,
                about=f"{about} {summary(type(value))}".strip(),
            )
        for inner in fields(value):
            if inner.name != "kind":
                yield from _setting(f"{path}.{inner.name}", inner, value)
        return
    yield Setting(path=path, value=_written(value), is_default=value == _default(field), about=about)


def _default(field: Any) -> object:
    if field.default is not MISSING:
        return cast("object", field.default)
    return MISSING if field.default_factory is MISSING else cast("object", field.default_factory())


def _written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_written(item) for item in cast("tuple[object, ...]", value)) + "]"
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in pairs) + "}"
    return str(value).replace("\n", " ")

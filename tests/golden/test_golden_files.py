"""What the repository keeps of each preset and of the documentation is what the code makes today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitruvius.report import svg_of
from vitruvius.report.changes_text import places
from vitruvius.report.reference import page_of, refresh
from vitruvius.sizing import size
from vitruvius.spec import kinds, preset, preset_names, read_text, resolve, to_data
from vitruvius.spec.node import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs" / "components").glob("*.md") if path.name != "patterns.md")
KINDS = [(family, kind) for family in FAMILIES for kind in kinds(family)]


def _compact(data, indent=1):
    """JSON with one line for each leaf-like value, so that a diff names what changed and nothing else."""
    if isinstance(data, dict) and any(isinstance(value, dict) for value in data.values()):
        inside = ",\n".join(f"{'  ' * indent}{json.dumps(k)}: {_compact(v, indent + 1)}" for k, v in data.items())
        return f"{{\n{inside}\n{'  ' * (indent - 1)}}}"
    return json.dumps(data)


def _resolved(name):
    """Every layer with its defaults spelled out; layers that are equal stand once, with their places."""
    graph = resolve(preset(name))
    architecture = to_data(graph.architecture, defaults="keep")
    groups = {}
    for layer in graph.every_layer():
        content = {
            "mixer": to_data(layer.mixer, defaults="keep") if layer.mixer else None,
            "ffn": to_data(layer.ffn, defaults="keep") if layer.ffn else None,
            **({"cross": to_data(layer.cross, defaults="keep")} if layer.cross else {}),
            "norm": to_data(layer.norm, defaults="keep"),
            "norm_place": layer.norm_place,
            "tensors": {name: list(tensor.shape) for name, tensor in layer.tensors().items()},
        }
        groups.setdefault((layer.name, json.dumps(content)), (content, []))[1].append(layer)
    kept = {
        key: value for key, value in architecture.items() if key not in {"blocks", "layers", "claims", "description"}
    }
    kept["final_norm"] = to_data(graph.final_norm, defaults="keep") if graph.final_norm else None
    kept["layers"] = {
        f"{block} {places([layer.index for layer in layers])}": content
        for (block, _), (content, layers) in groups.items()
    }
    own = {n: list(t.shape) for n, t in graph.tensors().items() if not n.startswith("layers.")}
    return {**kept, "tensors": own}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_resolves_to_the_layers_that_are_kept(name, kept):
    kept(f"tests/golden/resolved/{name}.json", _compact(_resolved(name)) + "\n")


def test_every_preset_costs_what_is_kept(kept):
    table = {}
    for name in preset_names():
        bill = size(preset(name))
        table[name] = {
            "context": bill.context,
            "parameters": bill.parameters.total,
            "active": bill.parameters.active,
            "embedding": bill.parameters.embedding,
            "weights_bytes": bill.weights_bytes,
            "kv_cache_bytes": bill.kv_cache_bytes,
            "forward_flops": bill.forward_flops,
            "dense_flops": bill.dense_flops,
        }
    kept("tests/golden/sizes.json", _compact(table) + "\n")


@pytest.mark.parametrize("name", ["llama-moe", "longcontext"])
def test_the_pictures_of_the_documentation_are_what_show_draws(name, kept):
    kept(f"docs/images/{name}.svg", svg_of(preset(name)))


def test_the_configuration_reference_is_current(kept):
    kept("docs/spec.md", refresh((ROOT / "docs" / "spec.md").read_text(encoding="utf-8")))


def test_the_table_of_schedulable_fields_is_current(kept):
    path = "docs/training/architecture-schedules.md"
    kept(path, refresh((ROOT / path).read_text(encoding="utf-8"), components="../components/"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_tables_of_a_component_page_are_current(path, kept):
    page = path.read_text(encoding="utf-8")
    kept(str(path.relative_to(ROOT)), refresh(page, components=""))


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: value)
def test_every_kind_has_a_page_that_says_the_same_things_in_the_same_order(family, kind):
    path = ROOT / "docs" / "components" / page_of(family, kind)
    assert path.is_file(), f"write {path.relative_to(ROOT)}"
    page = path.read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    expected = ["## Formula", "## Fields", "## Cost", "## When to use it", "## Source", "## Example"]
    assert [heading for heading in headings if heading in expected] == expected
    assert f"<!-- fields of {family} {kind} -->" in page


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: value)
def test_the_example_of_a_page_is_a_spec_that_uses_the_kind(family, kind):
    page = (ROOT / "docs" / "components" / page_of(family, kind)).read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    architecture = read_text(example).architecture
    assert not [finding for finding in read_text(example).findings if finding.severity == "error"]
    assert f"'kind': '{kind}'" in str(to_data(architecture, defaults="keep"))
    assert size(architecture).parameters.total > 0


def test_the_example_of_the_configuration_reference_is_llama_moe():
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    example = read_text(page.split("```yaml\n")[1].split("```")[0]).architecture
    assert example.blocks == preset("llama-moe").blocks


def test_links_between_pages_lead_somewhere():
    import re

    for path in [*PAGES, ROOT / "docs" / "spec.md", ROOT / "docs" / "components" / "patterns.md"]:
        for target in re.findall(r"\]\(([^)#]+?\.md)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).is_file(), f"{path.name} -> {target}"


def test_nothing_is_kept_of_a_preset_that_is_gone():
    assert {path.stem for path in (ROOT / "tests" / "golden" / "resolved").iterdir()} == set(preset_names())


def test_the_distances_that_the_page_on_rope_gives_are_where_the_sum_turns_negative():
    from math import cos

    page = (ROOT / "docs" / "components" / "position-rope.md").read_text(encoding="utf-8")
    table = page.split("| theta |")[1].splitlines()[2:]
    rows = [[int(cell.replace(",", "")) for cell in row.strip("| ").split("|")] for row in table if row.startswith("|")]
    assert len(rows) == 5
    for theta, *distances in rows:
        for width, distance in zip((64, 128), distances, strict=True):
            frequencies = [theta ** (-2 * i / width) for i in range(width // 2)]
            before = range(1, distance, max(1, distance // 2000))
            assert all(sum(cos(m * f) for f in frequencies) >= 0 for m in [*before, distance - 1]), (theta, width)
            assert sum(cos(distance * f) for f in frequencies) < 0, (theta, width)

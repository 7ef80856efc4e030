"""The verbs with which an architecture is designed, as a user types them, and everything that can be wrong with what
they are given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from vitruvius.spec import preset, preset_names, read
from vitruvius.spec.reading import presets_folder

VERBS = (["show"], ["size"], ["diff", "gpt2"])
"""The verbs that read a spec, which comes last."""


# ----------------------------------------------------------------------------------------------------------------------
# presets


def test_presets_lists_every_preset_with_its_size(said):
    code, out, err = said("presets")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(preset_names())
    assert "27.76 B  10.85 B  131,072" in out
    assert err == "next: vitruvius new my-arch --from llama-moe\n"


def test_presets_as_json_are_exact(said):
    code, out, err = said("presets", "--json")
    document = json.loads(out)
    rows = {row["name"]: row for row in document["presets"]}
    assert (code, err, document["schema"]) == (0, "", "vitruvius.presets/1")
    assert rows["llama-moe"]["parameters"] == 27_760_791_552
    assert rows["llama-moe"]["active_parameters"] == 10_849_357_824
    assert all(row["description"] for row in rows.values())


# ----------------------------------------------------------------------------------------------------------------------
# new


@pytest.mark.parametrize("source", preset_names())
def test_new_writes_the_preset_under_the_name_that_was_asked_for(source, here, said):
    code, out, err = said("new", "my-arch", "--from", source)
    assert (code, out) == (0, "my-arch.yaml\n")
    assert err == "next: vitruvius show my-arch.yaml\n"
    made, original = read("my-arch.yaml"), preset(source)
    assert made.name == "my-arch"
    assert (made.blocks, made.layers, made.width) == (original.blocks, original.layers, original.width)
    text = Path("my-arch.yaml").read_text(encoding="utf-8")
    comments = [line for line in (presets_folder() / f"{source}.yaml").read_text().splitlines() if line.startswith("#")]
    assert text.splitlines()[0].startswith(f"# my-arch, from the preset {source}.")
    assert set(comments) <= set(text.splitlines())


def test_new_without_a_preset_starts_from_a_small_one(here, said):
    assert said("new", "mine")[0] == 0
    assert read("mine.yaml").blocks == preset("tiny-llama").blocks


def test_new_makes_the_folder_it_writes_into_and_quotes_the_next_command(here, said):
    code, out, err = said("new", "a", "--out", "my designs/first")
    assert (code, out) == (0, "my designs/first/a.yaml\n")
    assert err == "next: vitruvius show 'my designs/first/a.yaml'\n"


@pytest.mark.parametrize("name", ["1e3", "123", "null", "true", "0x1F", "007"])
def test_a_name_that_yaml_would_read_as_something_else_stays_a_name(name, here, said):
    assert said("new", name)[0] == 0
    assert read(f"{name}.yaml").name == name


def test_the_suffix_may_be_typed(here, said):
    assert said("new", "mine.yaml")[:2] == (0, "mine.yaml\n")
    assert read("mine.yaml").name == "mine"


def test_new_never_overwrites_unless_it_is_told_to(here, said):
    Path("mine.yaml").write_text("precious", encoding="utf-8")
    code, out, err = said("new", "mine")
    assert (code, out) == (2, "")
    assert "mine.yaml is already there" in err and "--force" in err
    assert Path("mine.yaml").read_text(encoding="utf-8") == "precious"
    assert said("new", "mine", "--force")[0] == 0
    assert read("mine.yaml").name == "mine"


def test_a_link_that_leads_nowhere_is_not_overwritten_either(here, said):
    Path("mine.yaml").symlink_to("nowhere")
    assert said("new", "mine")[0] == 2
    assert Path("mine.yaml").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "/etc/x", "-rf", ".hidden", "", " ", "x" * 300, "a\x1b[2J", "a\nb", "größe", "a:b", "\ud800"],
)
def test_a_name_that_no_file_should_have_is_refused_before_the_disk_is_touched(name, here, said):
    code, out, err = said("new", "--from", "gpt2", "--out", here / "out", "--", name)
    assert (code, out) == (2, "")
    assert "cannot name files and folders" in err
    assert err.replace("\n", "").isprintable()
    assert list(here.iterdir()) == []


def test_a_name_with_a_nul_is_refused(here, said):
    assert said("new", "a\0b")[0] == 2
    assert list(here.iterdir()) == []


def test_a_preset_that_does_not_exist_is_answered_with_near_ones(here, said):
    code, out, err = said("new", "mine", "--from", "lama-moe")
    assert (code, out) == (2, "")
    assert "there is no preset 'lama-moe'" in err and "did you mean llama-moe" in err
    assert list(here.iterdir()) == []


def test_a_folder_called_like_a_preset_does_not_hide_it(here, said):
    Path("tiny-llama").mkdir()
    assert said("new", "mine", "--from", "tiny-llama")[0] == 0
    assert said("size", "tiny-llama")[0] == 0


def test_a_file_in_the_place_of_the_folder_is_one_clear_line(here, said):
    Path("out").write_text("", encoding="utf-8")
    code, _, err = said("new", "mine", "--out", "out")
    assert code == 2 and err.startswith("error: ") and "fix: " in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_clear_line(here, said):
    (here / "locked").mkdir(mode=0o500)
    code, out, err = said("new", "mine", "--out", "locked")
    assert (code, out) == (2, "")
    assert "Permission denied" in err and "fix: check its permissions" in err


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc on this system")
def test_a_file_system_that_takes_no_files_is_one_clear_line(here, said):
    for argv in (
        ["new", "mine", "--out", "/proc"],
        ["show", "gpt2", "--svg", "/proc/x.svg"],
        ["schema", "--out", "/proc/x"],
    ):
        code, out, err = said(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("error: /proc") and "fix: " in err


# ----------------------------------------------------------------------------------------------------------------------
# show


def test_show_draws_in_the_terminal_and_says_what_comes_next(vitruvius):
    done = vitruvius("show", "llama-moe", env={"COLUMNS": "120"})
    assert done.returncode == 0
    assert "32 heads of 128" in done.stdout and "× 16" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "\x1b" not in done.stdout
    assert done.stderr.endswith("next: vitruvius size llama-moe\n")


def test_show_draws_in_ascii_where_nothing_else_can_be_printed(vitruvius):
    done = vitruvius("show", "tiny-llama-moe", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert done.stdout.isascii() and "\\u" not in done.stdout and "+---" in done.stdout


def test_show_writes_an_svg(here, said):
    code, out, _ = said("show", "longcontext", "--svg", "drawing.svg")
    assert (code, out) == (0, "drawing.svg\n")
    assert ET.parse("drawing.svg").getroot().tag.endswith("svg")
    assert [path.name for path in here.iterdir()] == ["drawing.svg"]


def test_show_prints_an_svg(said):
    code, out, _ = said("show", "gpt2", "--svg", "-")
    assert code == 0
    assert ET.fromstring(out).tag.endswith("svg")


def test_show_as_json_is_the_drawing_as_data(here, said):
    code, out, err = said("show", "llama-moe", "--json", "--svg", "a.svg")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["schema"], document["svg"]) == ("vitruvius.show/1", "a.svg")
    assert document["layer_line"] == "(dense moe) x 16"
    assert [design["name"] for design in document["designs"]] == ["dense", "moe"]
    assert said("show", "llama-moe", "--json", "--svg", "-")[0] == 2


def test_overrides_are_drawn(said):
    code, out, _ = said("show", "longcontext", "--set", "layers=(local*3 full)*8")
    assert code == 0 and "× 8" in out and "24 of 32 layers" in out


# ----------------------------------------------------------------------------------------------------------------------
# size

PUBLISHED = {
    "llama-3-8b": (8_030_261_248, 8_030_261_248),
    "mixtral-8x7b": (46_702_792_704, None),
    "smollm2-135m": (134_515_008, 134_515_008),
    "gpt2": (124_439_808, 124_439_808),
    "qwen3-30b-a3b": (30_532_122_624, None),
    "longcontext": (5_802_037_248, 5_802_037_248),
    "longcontext-7b": (7_009_996_800, 7_009_996_800),
    "llama-moe": (27_760_791_552, 10_849_357_824),
    "llama-moe-16e": (50_309_894_144, 10_849_882_112),
    "llama-moe-70b": (267_856_388_096, 98_742_050_816),
}
"""Preset -> parameters and active ones, as published or worked out by hand; None where nobody published a figure."""


@pytest.mark.parametrize(("name", "counts"), PUBLISHED.items(), ids=PUBLISHED.keys())
def test_size_counts_what_was_published(name, counts, said):
    code, out, err = said("size", name, "--json")
    parameters = json.loads(out)["parameters"]
    assert (code, err) == (0, "")
    assert parameters["total"] == counts[0]
    assert counts[1] in {parameters["active"], None}


def test_the_dense_twin_of_the_70b_mixture_has_as_many_parameters_as_llama_3_70b(said):
    code, out, _ = said("size", "llama-moe-70b", "--set", "layers=dense*80", "--json")
    assert (code, json.loads(out)["parameters"]["total"]) == (0, 70_553_706_496)


@pytest.mark.parametrize("tokens", [150, 4096, 16_384, 65_536, 102_400, 131_072])
def test_the_cache_of_longcontext_is_what_its_layers_keep(tokens, said):
    kept = 4096 * (16 * min(tokens, 4096) + 12 * min(tokens, 4093) + 4 * tokens)
    archived = max(0, -(-(tokens - 4096) // 128))
    code, out, _ = said("size", "longcontext", "--context", tokens, "--json")
    assert code == 0
    assert json.loads(out)["memory"]["kv_cache_bytes"] == kept + 4096 * 16 * archived


def test_the_cache_of_full_attention_is_every_token(said):
    document = json.loads(said("size", "llama-moe", "--context", "128k", "--json")[1])
    assert document["memory"]["kv_cache_bytes"] == 16 * 2**30
    assert document["context"] == 131_072


def test_size_as_json_has_every_key_of_the_contract(said):
    document = json.loads(said("size", "llama-moe", "--batch", "4", "--dtype", "fp32", "--mode", "train", "--json")[1])
    assert document["schema"] == "vitruvius.size/1"
    assert {"context", "batch", "dtype", "mode", "parameters", "memory", "flops", "fits", "decode", "on"} <= set(
        document
    )
    assert {"total", "active", "embedding"} <= set(document["parameters"])
    memory = {"weights_bytes", "kv_cache_bytes", "state_bytes", "activations_bytes", "peak_bytes"}
    assert memory <= set(document["memory"])
    assert {"forward_per_token", "train_per_token"} <= set(document["flops"])
    assert "tokens_per_second_bound" in document["decode"]
    assert (document["batch"], document["dtype"], document["mode"]) == (4, "fp32", "train")
    assert document["memory"]["weights_bytes"] == 4 * 27_760_791_552


def test_tokens_are_echoed_in_full(said):
    assert "1 sequence of 131,072 tokens" in said("size", "llama-moe", "--context", "128k")[1]


def test_wrong_claims_are_marked_and_are_no_failure(said):
    code, out, err = said("size", "llama-moe")
    assert code == 0
    assert "✗ parameters: says 8B, is 27.76 B (27,760,791,552)" in out
    assert "technical overview" in out
    assert err.endswith("next: vitruvius check llama-moe\n")


def test_claims_are_marked_in_words_where_nothing_else_can_be_printed(vitruvius):
    done = vitruvius("size", "llama-moe", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.stdout.isascii() and "WRONG: parameters: says 8B" in done.stdout


def test_warnings_and_notes_are_talk(said):
    code, out, err = said("size", "longcontext")
    assert code == 0
    assert "warning" not in out
    assert "longcontext.yaml:17:37  blocks.local.mixer.position.theta\n  warning: at distance" in err


def test_size_explains_its_arithmetic(said):
    code, out, _ = said("size", "llama-moe", "--explain")
    assert code == 0
    for line in ("128,256 x 4,096", "8 x 14,336 x 4,096 x 2 / 8", "27,760,791,552 x 2", "16 x 1 x 536,870,912"):
        assert line in out
    assert said("size", "llama-moe", "--explain", "--json")[0] == 2


def test_overrides_are_sized(said):
    document = json.loads(said("size", "llama-moe", "--set", "blocks.moe.ffn.experts=16", "--json")[1])
    assert document["parameters"]["total"] == 50_309_894_144


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--context", "many"], "cannot read 'many'"),
        (["--context", "0"], "at least one token"),
        (["--context", "-1"], "cannot read '-1'"),
        (["--context", "1e30"], "out of range"),
        (["--context", "9" * 5000], "cannot read"),
        (["--batch", "0"], "batch=0 is out of range"),
        (["--batch", "four"], "cannot read 'four'"),
        (["--batch", "9" * 5000], "cannot read '9999"),
        (["--dtype", "int7"], "there is no weight format 'int7'"),
        (["--mode", "guess"], "there is no mode 'guess'"),
        (["--set", "widht=64"], "did you mean"),
        (["--set", "width"], "="),
        (["--set", "width=sixty"], "not a whole number"),
        (["--contxt", "4k"], "Did you mean one of: '--context'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_number_that_makes_no_sense_is_one_clear_message(argv, message, said):
    code, out, err = said("size", "tiny-llama", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err) < 2000


# ----------------------------------------------------------------------------------------------------------------------
# diff


def test_diff_says_what_differs_and_what_it_costs(said):
    code, out, err = said("diff", "longcontext", "longcontext-7b")
    assert code == 0
    assert out.startswith("longcontext -> longcontext-7b\n")
    assert "ffn.hidden  11,008  ->  14,080" in out and "x 1.208" in out
    assert err == "next: vitruvius show longcontext-7b\n"


def test_diff_as_json(said):
    document = json.loads(said("diff", "llama-3-8b", "llama-moe", "--context", "4k", "--json")[1])
    assert (document["schema"], document["context"], document["same"]) == ("vitruvius.diff/1", 4096, False)
    assert document["figures"][0] == {
        "name": "parameters",
        "before": 8_030_261_248,
        "after": 27_760_791_552,
        "ratio": 27_760_791_552 / 8_030_261_248,
    }


def test_a_new_architecture_differs_from_its_preset_in_nothing(here, said):
    said("new", "mine", "--from", "mixtral-8x7b")
    code, out, _ = said("diff", "mixtral-8x7b", "mine.yaml")
    assert code == 0 and "nothing differs" in out


# ----------------------------------------------------------------------------------------------------------------------
# schema


def test_schema_prints_a_schema_that_every_new_architecture_fits(here, said):
    code, out, _ = said("schema")
    schema = json.loads(out)
    assert code == 0
    said("new", "mine", "--from", "gpt2")
    data = yaml.safe_load(Path("mine.yaml").read_text(encoding="utf-8"))
    assert not list(Draft202012Validator(schema).iter_errors(data))
    assert list(Draft202012Validator(schema).iter_errors(data | {"widht": 1}))


def test_schema_writes_a_file_and_says_how_an_editor_finds_it(here, said):
    code, out, err = said("schema", "--out", "vitruvius.schema.json")
    assert (code, out) == (0, "vitruvius.schema.json\n")
    assert "# yaml-language-server: $schema=vitruvius.schema.json" in err
    assert json.loads(Path("vitruvius.schema.json").read_text(encoding="utf-8")) == json.loads(said("schema")[1])


# ----------------------------------------------------------------------------------------------------------------------
# Bad input: specs


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lama-moe", "did you mean llama-moe"),
        ("missing.yaml", "there is no file 'missing.yaml'"),
        ("../../missing.yaml", "there is no file"),
        ("", "this name is empty"),
        ("a\0b", "NUL"),
        ("x" * 5000, "error: "),
        ("\x1b[2J", "error: "),
        ("\ud800", "error: "),
        (".", "error: "),
        ("/dev/null", "error: "),
        ("/dev/zero", "error: "),
    ],
    ids=["unknown", "missing", "up", "empty", "nul", "long", "ansi", "surrogate", "folder", "null", "zero"],
)
def test_what_is_no_spec_is_one_clear_message(verb, spec, message, here, said):
    code, out, err = said(*verb, spec)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err
    assert err.replace("\n", "").isprintable() and len(err) < 3000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_pipe_that_nobody_writes_to_is_refused_at_once(verb, here, said):
    os.mkfifo("pipe.yaml")
    # Whoever waits for the pipe would wait for ever: let it go on after a while, and fail the test instead.
    alarm = threading.Timer(20, lambda: os.close(os.open("pipe.yaml", os.O_RDWR | os.O_NONBLOCK)))
    alarm.start()
    code, out, err = said(*verb, "pipe.yaml")
    assert alarm.is_alive()
    alarm.cancel()
    assert (code, out) == (2, "") and err.startswith("error: ")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_finding_of_a_spec_is_shown_at_its_line(verb, here, said):
    text = (presets_folder() / "tiny-llama.yaml").read_text(encoding="utf-8")
    Path("bad.yaml").write_text(
        text.replace("kv_heads: 2", "kv_heads: 3").replace("4, ", "4, headz: 1, "), encoding="utf-8"
    )
    code, out, err = said(*verb, "bad.yaml")
    assert (code, out) == (2, "")
    assert "bad.yaml:" in err and "headz" in err and "fix: " in err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_name_inside_a_spec_cannot_reach_the_terminal_as_a_command(verb, here, said):
    text = (presets_folder() / "tiny-llama.yaml").read_text(encoding="utf-8")
    for bad in ("name: \x1b[2Jx", 'name: "\\e[2Jx"', "name: x\u202ey"):
        Path("bad.yaml").write_text(text.replace("name: tiny-llama", bad), encoding="utf-8")
        code, out, err = said(*verb, "bad.yaml")
        assert (code, out) == (2, "")
        assert err.replace("\n", "").isprintable()


def test_the_description_of_a_spec_cannot_reach_the_terminal_as_a_command(here, said):
    text = (presets_folder() / "tiny-llama.yaml").read_text(encoding="utf-8")
    for bad in ('description: "a\\nerror: b"', 'description: "<script>"'):
        Path("odd.yaml").write_text(text.replace("description: Dense", f"{bad} # Dense"), encoding="utf-8")
        code, out, _ = said("show", "odd.yaml")
        assert code == 0
        assert not any(line.startswith("error:") for line in out.splitlines())
        assert "<script>" not in said("show", "odd.yaml", "--svg", "-")[1]


# ----------------------------------------------------------------------------------------------------------------------
# Bad input: where the output goes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "argv", [["presets"], ["show", "gpt2"], ["size", "gpt2"], ["diff", "gpt2", "tiny-gpt2"], ["schema"]]
)
def test_a_full_disk_under_stdout_is_one_clear_line(argv, flags):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, *flags, "-m", "vitruvius", *argv]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "error: standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("argv", ["schema", "show longcontext", "size longcontext --explain"])
def test_a_reader_that_goes_away_is_no_error(argv):
    pipe = f'"{sys.executable}" -m vitruvius {argv} | head -n 1; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr


@pytest.mark.parametrize("verb", ["show", "size"])
def test_ctrl_c_is_quiet(verb):
    # The signal arrives while the spec is being read: the reader waits for a line of a file that has just been opened.
    code = """
import os, signal, sys
import vitruvius.spec.reading as reading
reading.load = lambda path: (print("reading", flush=True), signal.pause())
from vitruvius.cli.main import main
sys.argv = ["vitruvius", sys.argv[1], "gpt2"]
sys.exit(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    assert (process.wait(), process.stderr.read()) == (130, "")


# ----------------------------------------------------------------------------------------------------------------------
# What the verbs import


@pytest.mark.parametrize("argv", [["presets"], ["size", "llama-moe"], ["show", "llama-moe"], ["new", "x"]])
def test_the_design_verbs_import_neither_torch_nor_numpy_nor_rich(argv, here, python):
    code = """
import sys
from vitruvius.cli.main import run
run(sys.argv[1:])
print("imported:", sorted({"numpy", "rich", "torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""
    assert python(code, *argv).stderr.endswith("imported: []\n")

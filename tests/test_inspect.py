"""The command `inspect`: what it shows of files, folders, stages and engines, on a terminal and through a pipe."""

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import struct
import subprocess
import sys
import termios
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from shown import assert_snapshot, convert_layers, layers_model, long_model, plain, run, static_model

from torch2trt_onnx import convert, facets, selection, tallies
from torch2trt_onnx.commands import inspect as command
from torch2trt_onnx.inspection import read
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.report import Report
from torch2trt_onnx.selection import Only, natural, select
from torch2trt_onnx.views.columns import DOTS, Listing, Styled, shortened
from torch2trt_onnx.views.show import PARTS

COMMAND = (sys.executable, "-m", "torch2trt_onnx.cli")
FIRST = "/encoder/layers/0/attention/query/MatMul"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `layers.onnx`, its conversion `layers` with stages, and `built`, that with an engine."""
    place = tmp_path_factory.mktemp("inspect")
    convert_layers(place)
    return place


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("parts", [("layers", "casts", "bindings"), ("plan", "weights"), ("precision", "stats")])
def test_a_terminal_shows(here, width, parts):
    words = [word for part in parts for word in ("--show", part)]
    shown = plain(run("inspect", "layers/model.onnx", "--all", *words, width=width).stdout)
    assert max(map(len, shown.splitlines())) <= width
    assert_snapshot(f"inspect-{'-'.join(parts)}-{width}", shown)


def test_a_pipe_gets_each_node_on_one_whole_line_without_colours(here):
    shown = run("inspect", "layers", "--all", "--show", "layers").stdout
    assert shown == plain(shown) and DOTS not in shown
    lines = shown.splitlines()
    for node in read(Path("layers")).nodes:
        (line,) = [line for line in lines if line.split()[:2] == [node.plan.name, node.plan.op]]
        assert line.endswith(node.plan.reason or "-")


def test_the_nodes_of_a_body_are_indented_below_the_node_that_they_are_of(here):
    lines = run("inspect", "layers", "--show", "layers").stdout.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("/classifier/If "))
    assert {line.split()[0] for line in lines[at + 1 :]} == {"/classifier/Neg", "/classifier/head/MatMul"}
    assert all(line.startswith("  /classifier/") for line in lines[at + 1 :])


def test_a_terminal_has_a_colour_for_each_precision_but_where_colours_are_not_wanted(here, monkeypatch):
    shown = run("inspect", "layers", width=120).stdout
    assert "\x1b[36mfp32\x1b[0m" in shown and "\x1b[32mfp16\x1b[0m" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("inspect", "layers", width=120).stdout


def test_what_is_not_printable_in_a_name_does_not_reach_the_terminal(tmp_path):
    model = layers_model()
    model.graph.node[0].name = "evil\x1b[2J\nname"
    onnx.save(model, tmp_path / "evil.onnx")
    shown = run("inspect", tmp_path / "evil.onnx").stdout
    assert "\x1b" not in shown and "evil?[2J?name" in shown
    shown = run("explain", tmp_path / "evil.onnx", "evil*").stdout
    assert "\x1b" not in shown and "evil?[2J?name" in shown


class TestSelection:
    def names(self, *words):
        told = json.loads(run("inspect", "layers", "--json", "--show", "layers", *words).stdout)
        return [node["name"] for node in told["layers"]]

    @pytest.mark.parametrize(
        ("only", "kept"),
        {
            "a glob of names": (["name=*/MatMul"], lambda n: n.name.endswith("/MatMul")),
            "an operator": (["op=Cast"], lambda n: n.op == "Cast"),
            "of a field any": (["op=Cast", "op=Re*"], lambda n: n.op in ("Cast", "Relu")),
            "of several all": (["op=MatMul", "precision=fp16"], lambda n: n.op == "MatMul" and n.precision == "fp16"),
            "a module, and what is inside it": (
                ["module=encoder.layers.1"],
                lambda n: n.module.startswith("encoder.layers.1"),
            ),
            "a regular expression": (["name=re:.*(Neg|If)"], lambda n: n.op in ("Neg", "If")),
            "none": (["op=Conv"], lambda n: False),
        }.values(),
        ids=lambda value: None,
    )
    def test_only_keeps(self, here, only, kept):
        expected = {node.plan.name for node in read(Path("layers")).nodes if kept(node.plan)}
        assert set(self.names(*(word for text in only for word in ("--only", text)))) == expected

    @pytest.mark.parametrize("text", ["op", "kind=Conv", "op=re:["])
    def test_a_condition_that_cannot_be_read_is_wrong_usage(self, here, text):
        done = run("inspect", "layers", "--only", text)
        assert done.exit_code == 2 and "--only" in done.stderr

    def test_sort_orders(self, here):
        by_name = {node.plan.name: node for node in read(Path("layers")).nodes}
        for field in ("work", "bytes"):
            sizes = [getattr(by_name[name], field) for name in self.names("--sort", field)]
            assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 1
        for field in ("name", "op", "module"):
            words = [getattr(by_name[name].plan, field) for name in self.names("--sort", field)]
            assert words == sorted(words, key=natural)
        assert [by_name[n].plan.precision for n in self.names("--sort", "precision")] == ["fp32"] * 5 + [
            "fp16",
            "fp16",
            "",
        ]

    def test_numbers_in_names_sort_by_their_size(self):
        assert sorted(["layer.10", "layer.9", "layer", "layer.9.b"], key=natural) == [
            "layer", "layer.9", "layer.9.b", "layer.10",
        ]  # fmt: skip

    def test_the_command_knows_the_words_of_the_modules_that_it_loads_later(self):
        assert command.SHOWN == list(PARTS) == list(facets.FACETS)
        assert tuple(command.ORDERS) == selection.ORDERS


class TestData:
    def test_json_is_the_whole_report_and_with_show_the_parts_alone(self, here):
        whole = json.loads(run("inspect", "layers", "--json").stdout)
        saved = json.loads(Path("layers/report.json").read_text())
        assert whole | {"nodes": []} == saved | {"nodes": []}
        assert sorted(whole["nodes"], key=str) == sorted(saved["nodes"], key=str)
        parts = json.loads(run("inspect", "layers", "--json", "--show", "weights", "--show", "stats").stdout)
        assert list(parts) == ["weights", "stats"]
        assert {w["name"]: w["bytes"] for w in parts["weights"]} == {w["name"]: w["bytes"] for w in saved["weights"]}

    def test_a_folder_and_its_file_say_the_same_of_a_static_graph(self, here):
        folder, file = (json.loads(run("inspect", path, "--json").stdout) for path in ("layers", "layers/model.onnx"))
        scaled = lambda nodes: {n["name"]: (n["work"], n["bytes"]) for n in nodes}  # noqa: E731
        assert folder["weights"] == file["weights"]
        assert scaled(folder["nodes"])[FIRST] == (2 * 16 * 32 * 32, 2 * 16 * 32 * 4)
        # The file has a dynamic batch, which counts 1.
        assert scaled(file["nodes"])[FIRST] == (16 * 32 * 32, 16 * 32 * 4)

    def test_the_work_in_a_body_follows_the_shapes_that_were_asked_for(self, here):
        work = {node.plan.name: node.work for node in read(Path("layers")).nodes}
        assert work["/classifier/head/MatMul"] == work[FIRST] > 0

    def test_a_node_tells_what_it_reads_and_in_whose_body_it_is(self, here):
        nodes = {node.plan.name: node.plan for node in read(Path("layers")).nodes}
        assert nodes[FIRST].inputs == ("tokens", "encoder.layers.0.attention.query.weight")
        assert nodes["/classifier/head/MatMul"].scope == "/classifier/If"
        assert nodes[FIRST].scope == ""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_weight_that_a_pass_stored_anew_keeps_the_type_that_the_source_gave_it(self, tmp_path, dtype):
        graph = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 20]> g ({dtype.replace("32", "").replace("float64", "double")}[2,32] x)'
            f" => ({dtype.replace('32', '').replace('float64', 'double')}[2,32] y) {{ y = MatMul(x, w) }}"
        )
        values = np.random.default_rng(0).normal(size=(32, 32)).astype(dtype)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
        with pytest.warns() if dtype == "float64" else pytest.MonkeyPatch.context():
            made = convert(graph, None, "fp16", backend="none")
        made.save(tmp_path / "out")
        for report in (made.report, read(tmp_path / "out"), read(tmp_path / "out" / "model.onnx")):
            (weight,) = report.weights
            assert (weight.dtype, weight.authored) == ("fp16", {"float32": "fp32", "float64": "float64"}[dtype])
            assert weight.bytes == 32 * 32 * 2

    def test_a_module_counts_what_is_inside_it(self, here):
        report = read(Path("layers"))
        found = tallies.by_module(report.nodes)
        assert next(iter(found)) == ""
        assert found[""].nodes + found[""].casts == len(report.nodes)
        assert found[""].work == sum(node.work for node in report.nodes)
        for path, tally in found.items():
            inside = [n for n in report.nodes if not path or f"{n.plan.module}.".startswith(f"{path}.")]
            assert tally.work == sum(n.work for n in inside)
            assert tally.nodes == sum(n.plan.op != "Cast" for n in inside)

    def test_what_tensorrt_warned_of_is_told_once_a_line(self, tmp_path, tensorrt):
        tensorrt("8.6")
        onnx.save(static_model(), tmp_path / "m.onnx")
        words = ("-p", "fp32,fp16", "--backend", "tensorrt-weak", "-o", tmp_path / "out")
        assert run("convert", tmp_path / "m.onnx", *words).exit_code in (0, 4)
        (line,) = (line for line in read(tmp_path / "out").log if "opset" in line)
        assert line.startswith("Your ONNX model has been generated with opset 20")

    def test_an_engine_part_tells_the_layers_with_their_nodes(self, here):
        told = json.loads(run("inspect", "built", "--json", "--show", "engine").stdout)["engine"]
        assert {node for layer in told for node in layer["nodes"]} >= {FIRST}
        shown = run("inspect", "built", "--show", "engine", "--only", f"name={FIRST}").stdout
        assert FIRST in shown and f"of {len(told)} engine layers" in shown


class TestEngine:
    def test_an_engine_is_what_the_report_beside_it_tells(self, here):
        assert run("inspect", "built/model.engine", "--json").stdout == run("inspect", "built", "--json").stdout

    def test_an_engine_that_is_not_the_one_of_the_report_is_refused(self, folder, tmp_path):
        shutil.copytree(folder / "built", tmp_path / "out")
        data = bytearray((tmp_path / "out" / "model.engine").read_bytes())
        data[-1] ^= 1
        (tmp_path / "out" / "model.engine").write_bytes(data)
        done = run("inspect", tmp_path / "out" / "model.engine")
        assert done.exit_code == 1 and "not the one that the report beside it tells of" in done.stderr

    def test_an_engine_alone_says_what_to_do_where_it_cannot_be_loaded(self, folder, tmp_path):
        """TensorRT-RTX loads none without a GPU."""
        shutil.copy(folder / "built" / "model.engine", tmp_path / "lone.engine")
        done = run("inspect", tmp_path / "lone.engine")
        assert done.exit_code == 1 and "the engine cannot be read here" in done.stderr and "fix: " in done.stderr
        assert "TensorRT: not installed; TensorRT-RTX: " in done.stderr and "CUDA" in done.stderr

    @pytest.mark.parametrize("version", ["8.6", "10.13", "11.0"])
    def test_an_engine_alone_tells_its_layers_and_bindings_where_it_can(self, version, tensorrt, tmp_path):
        """On doubles of TensorRT; a dynamic one as well, whose types the inspector tells for a shape only."""
        tensorrt(version)
        onnx.save(layers_model(), tmp_path / "layers.onnx")
        shapes = ("-i", "tokens:1x16x32..2x16x32..4x16x32", "-i", "flag:scalar:bool")
        words = ("-p", "fp32,fp16", "--backend", "tensorrt", "--no-compare", "-o", tmp_path / "out")
        assert run("convert", tmp_path / "layers.onnx", *shapes, *words).exit_code == 0
        shutil.copy(tmp_path / "out" / "model.engine", tmp_path / "lone.plan")
        told, alone = read(tmp_path / "out"), read(tmp_path / "lone.plan")
        assert (alone.layers, alone.bindings, alone.backend.split()[0]) == (told.layers, told.bindings, "TensorRT")
        assert len(alone.layers) > 2 and {b.name for b in alone.bindings} == {"tokens", "flag", "scores"}
        shown = run("inspect", tmp_path / "lone.plan").stdout
        assert (
            f"{len(alone.layers)} engine layers" in shown
            and "tokens" in shown
            and "nodes" not in shown.split("engine layers")[0]
        )
        (tmp_path / "foreign.engine").write_bytes(b"no engine")
        assert "magicTag mismatch" in run("inspect", tmp_path / "foreign.engine").stderr


class TestStages:
    def test_a_stage_is_shown_with_what_was_done_before_it(self, here):
        first, last = (read(path) for path in (Path("layers/stages/00-export.onnx"), Path("layers/stages/plan")))
        assert not first.changes
        assert any(step == "AnnotatePrecision" and node == FIRST for step, node, _, _ in last.changes)
        assert FIRST in run("inspect", "layers/stages/00-export.onnx").stdout

    def test_a_stage_whose_weights_are_missing_or_cut_is_an_error(self, folder, tmp_path):
        shutil.copytree(folder / "layers" / "stages", tmp_path / "stages")
        weights = tmp_path / "stages" / "stages.weights"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert "is too short" in failing("inspect", tmp_path / "stages" / "00-export.onnx")
        weights.unlink()
        assert "stages.weights" in failing("inspect", tmp_path / "stages" / "00-export.onnx")


def failing(*words):
    """The one error of a command."""
    done = run(*words)
    assert done.exit_code == 1 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    return done.stderr


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64)


def _zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


BAD = {
    "a file that is not there": (lambda p: None, "there is no such file"),
    "an image": (lambda p: p.write_bytes(PNG), "neither TorchScript nor ONNX"),
    "an empty file": (lambda p: p.write_bytes(b""), "no nodes|neither"),
    "JSON": (lambda p: p.write_text('{"nodes": []}'), "neither TorchScript nor ONNX"),
    "a zip archive": (lambda p: _zip(p, ["notes.txt"]), "holds no model, and is not TorchScript"),
    "pickled tensors": (lambda p: _zip(p, ["archive/data.pkl"]), "pickled tensors"),
    "TorchScript": (lambda p: _zip(p, ["net/constants.pkl", "net/data.pkl"]), "the file is TorchScript"),
    "an empty folder": (lambda p: p.mkdir(), "the folder holds no report"),
    "a folder of other files": (lambda p: (p.mkdir(), (p / "model.onnx").write_bytes(b"")), "holds no report"),
    "a folder with JSON that is no report": (
        lambda p: (p.mkdir(), (p / "report.json").write_text('{"nodes": [1]}')),
        "cannot be read",
    ),
    "a folder with a report that is no JSON": (
        lambda p: (p.mkdir(), (p / "report.json").write_bytes(PNG)),
        "cannot be read",
    ),
    "a folder with a cut report": (
        lambda p: (p.mkdir(), (p / "report.json").write_text('{"source": "x", ')),
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("make", "words"), [pytest.param(*case, id=sentence) for sentence, case in BAD.items()])
def test_bad_input_is_one_error(make, words, tmp_path):
    make(tmp_path / "given")
    assert re.search(words, failing("inspect", tmp_path / "given"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_shown_or_refused_and_nothing_else(tmp_path_factory, data):
    whole = layers_model().SerializeToString()
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=3)):
        if at < len(damaged):
            damaged[at] = value
    path.write_bytes(damaged)
    done = run("inspect", path)  # which raises what is no exit
    assert done.exit_code in (0, 1)
    assert (done.exit_code == 1) == done.stderr.startswith("error: ")


WORDS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "Cc"]), max_size=40)


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), width=st.integers(30, 200))
def test_a_table_fits_its_terminal_and_a_row_is_a_line(rows, width):
    listing = Listing("title", ("name", "count", "why"), rows, frozenset({"count"}))
    lines = list(listing.lines(width, colour=False))
    assert len(lines) == len(rows) + 2
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)
    coloured = listing.lines(width, colour=True)
    assert [plain(line).rstrip() for line in coloured] == lines


@given(
    text=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=60),
    width=st.integers(3, 60),
)
def test_what_is_too_long_keeps_its_head_and_its_tail(text, width):
    short = shortened(text, width)
    if len(text) <= width:
        assert short == text
    else:
        head, tail = short.split(DOTS, 1) if short.count(DOTS) == 1 else (short[: (width - 1) // 2], "")
        assert len(short) == width and text.startswith(head) and text.endswith(tail) and 0 <= len(tail) - len(head) <= 1


def test_a_column_that_a_narrow_terminal_does_without_goes_before_others_cannot_be_read():
    rows = [("a" * 40, Styled("b" * 40, "bold"), "c" * 40)]
    listing = Listing("t", ("name", "layer", "why"), rows, spare=("layer",))
    assert "layer" in list(listing.lines(120, colour=False))[1]
    assert "layer" not in list(listing.lines(70, colour=False))[1]
    assert "a" * 40 in list(listing.lines(70, colour=False))[2]


def on_a_terminal(*words, rows=24, columns=100, **env):
    """What a command writes to a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    others = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}  # xdist sets them
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**others, "TERM": "xterm", **env},
    )
    os.close(slave)
    told = b""
    try:
        while part := os.read(master, 1 << 16):
            told += part
    except OSError:  # Linux says so where the other side is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    return told.decode()


def test_a_pager_shows_what_is_longer_than_the_terminal_and_nothing_else(folder):
    pager = "sed s/^/paged:/"  # no file of our own: a fork that still holds one open for writing would keep it from being run
    words = ("inspect", folder / "layers" / "model.onnx")
    assert "paged:" in on_a_terminal(*words, rows=10, PAGER=pager)
    assert "paged:" not in on_a_terminal(*words, rows=90, PAGER=pager)
    assert "paged:" not in on_a_terminal(*words, "--no-pager", rows=10, PAGER=pager)
    piped = subprocess.run(
        [*COMMAND, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PAGER": pager},
    )
    assert "paged:" not in piped.stdout


def test_inspecting_needs_no_pytorch(folder):
    code = (
        "import sys; from torch2trt_onnx.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([m for m in ('torch', 'onnxruntime', 'tensorrt_rtx', 'jinja2') if m in sys.modules])"
    )
    for path in ("layers", "layers/model.onnx", "built/model.engine"):
        done = subprocess.run(
            [sys.executable, "-c", code, "inspect", str(folder / path)], check=True, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_ten_thousand_nodes_take_little_time(tmp_path):
    """Three seconds of a quiet machine's clock, of which this counts the processor's."""
    onnx.save(long_model(10_000), tmp_path / "large.onnx")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, "inspect", str(tmp_path / "large.onnx")], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4


def test_conditions_are_parsed_as_they_are_written():
    assert Only.parse("name=a=b") == Only("name", "a=b")
    assert select(Report("nothing", PrecisionPlan(()), []), [Only.parse("op=*")]).nodes == []

"""The report as a page and as Markdown: what is in the file. What a reader sees of it is in test_browser.py."""

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from large_report import large_report

from torch2trt_onnx import Input, convert, page
from torch2trt_onnx.cli import main
from torch2trt_onnx.inspection import read
from torch2trt_onnx.page import payload, sections, summary, words
from torch2trt_onnx.page.curve import curve
from torch2trt_onnx.page.markdown import summarize
from torch2trt_onnx.report import Report

HOSTILE = "a</script><script>alert(1)</script><!--\u2028'\"&`|@user %2F"


@pytest.fixture(scope="module")
def report():
    from conftest import SmallNet

    torch.manual_seed(0)
    return convert(SmallNet().eval(), [torch.randn(1, 3, 8, 8)], {"fp32", "fp16"}).report


@pytest.fixture
def saved(net, tmp_path):
    image = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 8, 8), max_shape=(4, 3, 16, 16))
    return convert(net, [image], {"fp32", "fp16"}, backend="none").save(tmp_path / "out")


def run(*command):
    result = CliRunner().invoke(main, [str(word) for word in command])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class Tags(HTMLParser):
    """The elements of a page, as a browser finds them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_data(self, data):
        self.texts.setdefault(self.tags[-1][1].get("id") if self.tags else None, []).append(data)


def embedded(text):
    """The data of a page, as rows again."""
    data = json.loads("".join(Tags(text).texts["data"]))

    def rows(table):
        named = {key: [data["texts"][v] if isinstance(v, int) else [data["texts"][one] for one in v] for v in column]
                 for key, column in table["text"].items()}  # fmt: skip
        columns = named | table["plain"]
        return [{key: column[at] for key, column in columns.items()} for at in range(table["length"])]

    return {name: rows(table) for name, table in data.items() if name != "texts"}


def test_the_page_has_each_node_weight_layer_and_change_of_the_report(report):
    told = json.loads(json.dumps(report.to_json()))
    found = embedded(page.render(report))
    for name in ("nodes", "weights", "layers", "bindings"):
        assert found[name] == told[name]
    assert [list(change.values()) for change in found["changes"]] == told["changes"]
    assert found["nodes"] and found["layers"] and found["weights"]


def test_the_page_asks_for_nothing_and_forbids_scripts_that_are_not_its_own(report):
    tags = Tags(page.render(report)).tags
    outside = [attrs for _, attrs in tags if any(key in attrs for key in ("src", "srcset", "data", "action"))]
    assert not outside
    assert [attrs["href"] for tag, attrs in tags if tag == "link"] == ["data:,"]
    (policy,) = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "'unsafe-inline'" not in policy.split("script-src")[1]


def test_names_that_look_like_markup_stay_names(report):
    nodes = [replace(node, plan=replace(node.plan, name=f"{HOSTILE}{at}")) for at, node in enumerate(report.nodes)]
    hostile = replace(report, source=HOSTILE, nodes=nodes, warnings=[HOSTILE], log=[HOSTILE])
    text = page.render(hostile)
    assert [tag for tag, _ in Tags(text).tags].count("script") == 3  # the theme's, the data and the page's
    assert [node["name"] for node in embedded(text)["nodes"]] == [node.plan.name for node in nodes]
    assert "\u2028" not in "".join(Tags(text).texts["data"])
    told = summarize(hostile)
    assert "<script" not in re.sub(r"\\.", "", told)
    assert "@user" not in re.sub(r"\\.", "", told)


def test_no_identifier_stands_twice(report):
    ids = Tags(page.render(report)).ids
    assert len(ids) == len(set(ids))


def test_ten_thousand_nodes_are_less_than_20_megabytes():
    assert len(page.render(large_report(10_000)).encode()) < 20e6


def test_sections_without_data_are_left_out(saved):
    ids = Tags(page.render(read(saved))).ids
    assert not {"proof", "budget", "log"} & set(ids)
    assert {"summary", "picture", "nodes", "numbers", "bindings", "asked"} <= set(ids)
    alone = Tags(page.render(read(saved / "model.onnx"))).ids
    assert not {"numbers", "changes", "proof"} & set(alone)


def test_the_vendored_libraries_are_those_of_the_note():
    folder = page.FOLDER / "vendor"
    noted = dict(re.findall(r"^\| (\S+\.js) \|.*\| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M))
    assert noted == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.js")}
    text = page.render(large_report(8))
    for name in page.LIBRARIES:
        assert (folder / f"{name}.LICENSE").read_text() in text


def test_each_script_of_the_page_is_in_it():
    assert {*page.SCRIPTS, "theme"} == {p.stem for p in (page.FOLDER / "js").glob("*.js")}


class TestSummary:
    """What is said first."""

    def test_the_shares_are_those_of_the_work_in_the_report(self, report):
        nodes = report.to_json()["nodes"]
        whole = sum(node["work"] for node in nodes)
        for share in summary.shares(report):
            work = sum(node["work"] for node in nodes if node["precision"] == share.precision)
            assert share.work == pytest.approx(work / whole)
        assert sum(share.work for share in summary.shares(report)) == pytest.approx(1)

    def test_a_proven_conversion_says_so(self, report):
        assert [s.tone for s in summary.statements(report)] == ["plain", "good", "good"]
        text = [s.text for s in summary.statements(report)]
        assert re.fullmatch(r"SmallNet runs \d\d\.\d% of its multiplications in fp16 and \d\d\.\d% in fp32\.", text[0])
        assert text[1] == f"The engine proves the precision of all {sum(bool(n.verdict) for n in report.nodes)} nodes."
        assert text[2] == "The outputs agree with PyTorch, eager, on the CPU, within the tolerance."

    def test_what_the_engine_runs_otherwise_is_bad_news(self, report):
        nodes = [
            replace(node, verdict="overridden", evidence="runs in fp32") if node.plan.op == "Conv" else node
            for node in report.nodes
        ]
        departed = replace(report, nodes=nodes)
        found = list(summary.statements(departed))[1]
        assert (found.tone, found.text) == ("bad", "The engine runs 2 nodes otherwise than planned.")
        assert "<h3>Not proven</h3>" in page.render(departed)
        assert "2 not proven" in summarize(departed)

    def test_without_an_engine_nothing_is_proven(self, saved):
        assert "No engine was built" in summarize(read(saved))

    def test_outputs_beyond_the_tolerance_are_named(self, script_file, tmp_path):
        options = [
            "-i",
            "image:1x3x8x8..2x3x8x8..4x3x16x16",
            "--backend",
            "none",
            "--tolerance",
            "1e-12",
            "-o",
            tmp_path / "out",
        ]
        assert run("convert", script_file, *options).exit_code == 4
        assert "output 'output' differs, beyond the tolerance" in summarize(read(tmp_path / "out"))
        assert 'data-tone="bad"' in page.render(read(tmp_path / "out"))

    @given(st.floats(0, 1))
    def test_only_all_and_nothing_are_told_as_such(self, part):
        assert (words.share(part) == "100%") == (part == 1)
        assert (words.share(part) in ("0%", "0.0%")) == (part == 0)

    @given(st.integers(0, 10**15))
    def test_large_numbers_keep_three_digits(self, number):
        found = words.amount(number)
        scale = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.get(found[-1], 1)
        assert float(found.rstrip("TGMk ")) * scale == pytest.approx(number, rel=0.006)


class TestMarkdown:
    """The summary for a pull request."""

    def test_each_row_of_a_table_has_as_many_cells_as_its_head(self, report):
        two = replace(report, comparison=replace(report.comparison, outputs=report.comparison.outputs * 2))
        rows = [line for line in summarize(two).splitlines() if line.startswith("|")]
        assert len(rows) > 8
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}

    def test_it_has_the_numbers_of_the_page(self, report):
        told, shown = summarize(report), page.render(report)
        for figure in summary.figures(report):
            assert f"**{figure.value}**" in told
            assert f"<b>{figure.value}</b>" in shown


def test_the_curve_has_each_plan_that_was_tried_and_the_limit_between_them():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64)).eval()
    report = convert(net, [torch.randn(4, 64)], {"fp32", "fp16"}, policy="auto", max_error=4e-4, backend="none").report
    found = curve(report.trade)
    assert len(found.points) == len(report.trade.trials) > 1
    assert [p.kind for p in found.points].count("taken") == 1
    for point in found.points:
        assert (point.y > found.limit) == (point.kind == "beyond")
        assert 0 <= point.x <= 100 and 0 <= point.y <= 100
    assert 'id="budget"' in page.render(report)


def test_errors_that_are_no_number_stand_at_the_edge_and_the_data_is_still_json():
    torch.manual_seed(0)
    net = torch.nn.Linear(64, 64).eval()
    report = convert(net, [torch.randn(4, 64)], {"fp32", "fp16"}, policy="auto", max_error=1e-2, backend="none").report
    trial = report.trade.trials[0]
    trials = [
        replace(trial, errors=dict.fromkeys(trial.errors, number), ok=False) for number in (float("inf"), float("nan"))
    ]
    report.trade.trials[:0] = trials
    outputs = [replace(output, relative=float("nan"), ok=False) for output in report.comparison.outputs]
    report.comparison.outputs[:] = outputs
    assert [p.y for p in curve(report.trade).points if p.kind == "beyond"] == [100, 100]
    assert embedded(page.render(report))["nodes"]
    assert "nan" in summarize(report)


def test_passes_are_counted_by_what_they_did_whatever_the_names():
    found = {one.name: one for one in sections.passes(large_report(80))}
    assert found["FoldWeightCasts"].actions == {"stored … as fp16": 80}
    assert found["Retype"].total == 80


def test_texts_stand_once_in_the_data():
    data = json.loads(payload.encode(large_report(500)))
    assert len(data["texts"]) == len(set(data["texts"]))


class TestCommand:
    """`torch2trt-onnx report`, and `convert --html`."""

    def test_it_writes_a_page_into_the_folder_and_prints_where(self, saved):
        done = run("report", saved)
        assert (done.exit_code, done.stdout) == (0, f"written to {saved / 'report.html'}\n")
        assert (saved / "report.html").read_text() == page.render(read(saved))
        assert [p.name for p in saved.iterdir() if p.name.startswith(".")] == []
        assert run("check", saved).exit_code == 0

    def test_it_reads_an_onnx_file_and_writes_where_it_is_told(self, saved, tmp_path):
        target = tmp_path / "new" / "pages" / "a.html"
        assert run("report", saved / "model.onnx", "-o", target).exit_code == 0
        assert embedded(target.read_text())["nodes"]

    def test_markdown_is_printed_or_written(self, saved, tmp_path):
        told = run("report", saved, "--markdown").stdout
        assert told.startswith("### Precision of SmallNet\n")
        run("report", saved, "--markdown", "-o", tmp_path / "a.md")
        assert (tmp_path / "a.md").read_text().strip() == told.strip()

    def test_convert_writes_it_too_where_that_is_asked(self, script_file, tmp_path):
        command = ["convert", script_file, "-i", "image:1x3x8x8", "--backend", "none", "-o", tmp_path / "out"]
        assert run(*command).exit_code == 0
        assert not (tmp_path / "out" / "report.html").exists()
        assert run(*command, "--html").exit_code == 0
        assert (tmp_path / "out" / "report.html").read_text() == page.render(read(tmp_path / "out"))

    def test_the_file_of_another_tool_has_a_page(self, tmp_path):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        torch.onnx.export(net, (torch.ones(1, 3, 8, 8),), str(tmp_path / "other.onnx"), dynamo=False)
        assert run("report", tmp_path / "other.onnx").exit_code == 0
        found = embedded((tmp_path / "report.html").read_text())["nodes"]
        assert [node["op"] for node in found] == [n.op_type for n in onnx.load(tmp_path / "other.onnx").graph.node]

    @pytest.mark.parametrize(
        ("make", "text"),
        {
            "an empty folder": (lambda at: at.mkdir(), "holds no report"),
            "a text": (lambda at: at.write_text("no model"), "neither TorchScript nor ONNX"),
            "a truncated report": (lambda at: (at.mkdir(), (at / "report.json").write_text('{"nodes": [')), "cannot be read"),
            "nothing": (lambda at: None, "no such file"),
        }.values(),
        ids=lambda value: None,
    )  # fmt: skip
    def test_bad_input_is_one_error_and_no_page(self, make, text, tmp_path):
        make(tmp_path / "bad")
        done = run("report", tmp_path / "bad")
        assert done.exit_code == 1
        assert text in done.stderr and "Traceback" not in done.stderr
        assert not list(tmp_path.rglob("*.html"))

    def test_a_page_that_cannot_be_written_leaves_the_old_one(self, saved):
        (saved / "report.html").mkdir()
        done = run("report", saved)
        assert done.exit_code == 1
        assert "could not be written" in done.stderr
        assert (saved / "report.html").is_dir()


def test_a_report_read_again_has_the_same_page(report):
    assert page.render(Report.from_json(json.loads(json.dumps(report.to_json())))) == page.render(report)

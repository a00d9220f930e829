"""The public face: what goes into `convert`, what comes out, and what it says of wrong requests."""

import contextlib
import json
import resource

import numpy as np
import onnx
import pytest
import torch

from torch2trt_onnx import ConversionError, Input, Options, Precision, convert
from torch2trt_onnx.backends import worker
from torch2trt_onnx.backends.layers import parse
from torch2trt_onnx.errors import (
    BackendMissingError,
    BuildError,
    GraphError,
    InputError,
    OutputError,
    ParseError,
    PrecisionError,
    WorkerError,
)
from torch2trt_onnx.inspection import read

IMAGE = Input((2, 3, 8, 8), name="image")


def onnx_text(text):
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 20]>' + text)


class TestResult:
    @pytest.fixture(scope="class")
    @staticmethod
    def conversion():
        from conftest import SmallNet

        torch.manual_seed(0)
        return convert(SmallNet().eval(), [IMAGE], {"fp32", "fp16"}, strict=True)

    def test_the_final_graph_gives_the_numbers_of_eager_pytorch(self, conversion):
        comparison = conversion.report.comparison
        assert comparison.ok
        assert comparison.outputs[0].relative < 6e-3
        assert comparison.reference.startswith("PyTorch")

    def test_each_float_node_has_in_the_network_the_type_that_was_planned(self, conversion):
        found = {n.plan.op: set(n.network) for n in conversion.report.nodes if n.plan.precision}
        assert (found["ReduceMean"], found["Gemm"]) == ({"fp32"}, {"fp32"})
        assert all(any(n.network) and not n.differs for n in conversion.report.nodes if n.plan.precision)

    def test_the_fp16_convolution_is_a_half_kernel_of_the_engine(self, conversion):
        second = next(n for n in conversion.report.nodes if n.plan.op == "Conv" and n.plan.precision == "fp16")
        kernels = [layer for layer in conversion.report.layers if layer.name in second.layers]
        assert kernels
        assert any(t.dtype == "Half" for kernel in kernels for t in (*kernel.inputs, *kernel.outputs))

    def test_the_onnx_file_alone_tells_the_plan(self, conversion):
        props = {n.name: {p.key: p.value for p in n.metadata_props} for n in conversion.onnx.graph.node}
        for node in conversion.plan.floats():
            assert props[node.name]["torch2trt_onnx.precision"] == node.precision
            assert props[node.name]["torch2trt_onnx.reason"] == node.reason

    def test_the_final_graph_passes_the_full_check_of_onnx(self, conversion):
        onnx.checker.check_model(conversion.onnx, full_check=True)

    def test_a_saved_conversion_is_read_back_as_it_was(self, conversion, tmp_path):
        conversion.save(tmp_path / "out")
        again = read(tmp_path / "out")
        assert json.dumps(again.to_json()) == json.dumps(conversion.report.to_json())
        assert (tmp_path / "out" / "model.engine").read_bytes() == conversion.engine
        assert read(tmp_path / "out" / "model.onnx").plan.nodes == conversion.plan.nodes

    def test_the_temporary_folder_goes_with_the_result(self, net):
        conversion = convert(net, [IMAGE], backend="none")
        folder = conversion._onnx_path.parent
        assert folder.is_dir()
        del conversion
        assert not folder.exists()


@pytest.mark.parametrize(
    "words", ["fp16,fp32", ["half", torch.float32], {Precision.FP16, np.float32}, ("float16", "fp32")]
)
def test_precisions_are_taken_in_the_words_that_people_use(words, net):
    assert convert(net, [IMAGE], words, backend="none").plan.asked.precisions == {Precision.FP16, Precision.FP32}


def test_channels_last_images_are_bound_as_hwc(net):
    image = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    report = convert(net, [image]).report
    assert "channel-last" in report.bindings[0].format
    assert report.comparison.ok


def test_progress_is_told_from_loading_to_building(net):
    phases = []
    convert(net, [IMAGE], progress=lambda event: phases.append(event["phase"]))
    assert phases[:5] == ["load", "export", "repairs", "plan", "lowering"]
    assert any("Building" in phase for phase in phases)


class TestEngine:
    @pytest.fixture
    def linear(self):
        return torch.nn.Linear(64, 64)

    def test_it_is_built_for_the_compute_capabilities_that_were_asked_for(self, linear):
        assert b"accelerators={sm89 sm120 }" in convert(linear, [Input((8, 64))]).engine
        only = convert(linear, [Input((8, 64))], options=Options(compute_capabilities=("8.6",))).engine
        assert b"accelerators={sm86 }" in only

    def test_tf32_is_off_unless_asked_for(self, linear):
        assert b"tf32=1" not in convert(linear, [Input((8, 64))]).engine
        assert b"tf32=1" in convert(linear, [Input((8, 64))], options=Options(tf32=True)).engine

    def test_its_bindings_have_the_names_types_and_shapes_of_the_model(self):
        report = convert(
            torch.nn.Linear(64, 8).half(), [Input(min_shape=(1, 64), opt_shape=(2, 64), max_shape=(4, 64))]
        ).report
        assert [(b.name, b.mode, b.dtype, b.dims) for b in report.bindings] == [
            ("input", "Input", "Half", (-1, 64)),
            ("output", "Output", "Half", (-1, 8)),
        ]


def test_fp64_is_demoted_with_a_warning_that_names_it():
    model = torch.nn.Linear(4, 4).double()
    with pytest.warns(UserWarning, match="fp64") as told:
        conversion = convert(model, [Input((2, 4), dtype="float64")])
    assert "'weight'" in " ".join(str(w.message) for w in told)
    assert {n.plan.precision for n in conversion.report.nodes} == {"fp32"}
    assert not any(n.differs for n in conversion.report.nodes)


def test_an_operator_that_onnx_runtime_lacks_leaves_the_comparison_unmade_and_the_conversion_done():
    model = onnx_text("g (float[4] x) => (float[4] y) { y = my.domain.Twice(x) }")
    model.opset_import.add(domain="my.domain", version=1)
    with pytest.warns(UserWarning, match="not compared"):
        conversion = convert(model, None, backend="none")
    assert not conversion.report.comparison.made
    assert [n.op_type for n in conversion.onnx.graph.node] == ["Twice"]


class TestWrongRequests:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"compute_capabilities": "8.9"},
            {"compute_capabilities": ()},
            {"timeout": 0},
            {"memory_limit": -1},
            {"exporter": "onnx"},
            {"tolerance": -1.0},
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, wrong):
        with pytest.raises(InputError):
            Options(**wrong)

    @pytest.mark.parametrize("word", ["fp12", "int8", "", torch.int32, 3])
    def test_what_is_no_precision_is_named(self, word, net):
        with pytest.raises(PrecisionError):
            convert(net, [IMAGE], word, backend="none")

    def test_when_strict_a_precision_that_the_model_has_must_be_asked_for_and_every_such_node_is_named(self, net):
        with pytest.raises(PrecisionError, match="When strict is True") as error:
            convert(net, [IMAGE], "fp32", strict=True, backend="none")
        assert "second.weight" in str(error.value)
        assert str(error.value).count("is fp16") >= 2

    def test_a_reduced_precision_that_no_node_would_run_in_is_an_error_and_no_silent_fp32_engine(self):
        with pytest.raises(PrecisionError, match="not one node"):
            convert(torch.nn.Linear(4, 4), [Input((2, 4))], {"fp32", "fp16"}, policy="source", backend="none")

    def test_a_tensorrt_that_is_not_installed_is_named(self, net):
        with pytest.raises(BackendMissingError, match="the module tensorrt is not installed"):
            convert(net, [IMAGE], backend="tensorrt")

    def test_an_unknown_back_end_is_named_before_anything_runs(self, net):
        with pytest.raises(BackendMissingError, match="no back end 'cuda'"):
            convert(net, [IMAGE], backend="cuda")

    def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(self):
        model = onnx_text("g (float[4] x) => (int64[n, 1] y) { [where] y = NonZero(x) }")
        with pytest.raises(ParseError) as error:
            convert(model, None, options=Options(compare=False))
        assert "'where'" in str(error.value)

    def test_an_ill_typed_graph_names_every_node_its_tensors_and_their_types(self):
        model = onnx_text(
            """g (float[1,3,8,8] x, float16[4] h) => (float[1,4,6,6] y, float[4] z)
            <float16[4,3,3,3] w = {0}, float[4] b = {1, 2, 3, 4}>
            { [conv] y = Conv(x, w)  [sum] z = Add(b, h) }"""
        )
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float16), "w"))
        with pytest.raises(GraphError) as error:
            convert(model, None, backend="none")
        text = str(error.value)
        assert "'conv'" in text and "'w' is fp16" in text and "'x' is fp32" in text
        assert "'sum'" in text and "'b' is fp32" in text and "'h' is fp16" in text

    def test_a_compute_capability_that_does_not_exist_is_an_error_of_the_build(self, net):
        with pytest.raises(BuildError, match=r"no compute capability 4\.2"):
            convert(net, [IMAGE], options=Options(compute_capabilities=("4.2",)))

    def test_a_format_that_a_type_cannot_have_is_an_error_before_the_build(self):
        image = Input((1, 3, 8, 8), dtype="int64", format="channels_last")
        with pytest.raises(InputError, match="there is no channels_last for int64; use contiguous_format"):
            convert(torch.nn.Flatten(), [image])


class TestHostileGraphs:
    def test_a_graph_that_crashes_the_parser_is_an_error_and_the_caller_lives(self):
        # Measured on TensorRT-RTX 1.7.1.116: SIGSEGV.
        model = onnx_text("g (float[2,8] x, int64[1] k) => (float[2,3] v, int64[2,3] i) { v, i = TopK(x, k) }")
        del model.graph.input[1]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 8), np.float32), "k"))
        with pytest.raises(ConversionError):
            convert(model, None, options=Options(compare=False))

    def test_a_build_beyond_its_time_is_ended(self, net):
        with pytest.raises(WorkerError, match="longer than"):
            convert(net, [IMAGE], options=Options(timeout=0.2))

    def test_a_build_beyond_its_memory_is_ended(self, net):
        with pytest.raises(WorkerError, match="GiB"):
            convert(net, [IMAGE], options=Options(memory_limit=1 << 20))


def test_a_file_in_the_current_folder_is_not_run_by_the_child_process(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('a stray file was run')")
    monkeypatch.chdir(tmp_path)
    found = worker.run(
        "torch2trt_onnx.backends.build_worker",
        {"product": "rtx"},
        tmp_path,
        model_name="it",
        timeout=60,
        memory_limit=None,
    )
    assert found["problem"] == ""


class TestDisk:
    def test_a_folder_that_cannot_be_made_is_an_error(self, net, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="file"):
            convert(net, [IMAGE], backend="none").save(tmp_path / "file")

    def test_a_full_disk_leaves_what_was_there(self, net, tmp_path):
        convert(net, [IMAGE], backend="none").save(tmp_path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        conversion = convert(net, [Input((4, 3, 8, 8))], backend="none")
        with small_files(), pytest.raises(OutputError, match="File too large"):
            conversion.save(tmp_path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_a_full_disk_during_the_conversion_is_an_error_that_says_how_to_mend_it(self, net):
        with small_files(), pytest.raises(OutputError, match="TMPDIR"):
            convert(net, [IMAGE], backend="none")


@contextlib.contextmanager
def small_files():
    """No file may grow beyond 1 kB, so that writes fail as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_layers_are_read_from_names_with_brackets_and_commas():
    tensor = "{ Name: a, b], Dimensions: [-1,8], Strides: [8,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major }"
    line = (
        f"Name: x, [odd], LayerType: kgen, Inputs: [ {tensor}], Constants: [], Outputs: [ {tensor}], TacticName: t, StreamId: 0, "
        "Metadata: [ONNX Layer: a, [1]]\x1f[ONNX Layer: b]"
    )
    layers, _ = parse("Layers:\n" + line + "\nnothing of ours")
    assert layers[0].name == "x, [odd]"
    assert layers[0].nodes == ("a, [1]", "b")
    assert [(t.name, t.dtype, t.dims) for t in layers[0].inputs] == [("a, b]", "Half", (-1, 8))]

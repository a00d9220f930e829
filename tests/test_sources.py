"""The forms that a model comes in, all of one result; and files that are no models."""

import pickle
import warnings
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import parse
from torch import nn

from torch2trt_onnx import Input, convert
from torch2trt_onnx.errors import ConversionError, ConversionWarning, InputError, SourceError
from torch2trt_onnx.exporters import source

X = torch.linspace(-2, 2, 64).reshape(1, 1, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3).half()

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)).half())


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net()
    nn.init.normal_(model.norm.running_mean)
    nn.init.uniform_(model.norm.running_var, 0.5, 2)
    return model.eval().requires_grad_(False)


def saved(module, folder):
    path = folder / "model.pt"
    torch.jit.save(module, path)
    return path


def exported_file(net, folder):
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (X,), str(path), dynamo=False, do_constant_folding=False, input_names=["x"])
    return path


FORMS = {
    "module": lambda net, folder: net,
    "trace": lambda net, folder: torch.jit.trace(net, X),
    "script": lambda net, folder: torch.jit.script(net),
    "frozen trace": lambda net, folder: torch.jit.freeze(torch.jit.trace(net, X)),
    "frozen script": lambda net, folder: torch.jit.freeze(torch.jit.script(net)),
    "loaded trace": lambda net, folder: torch.jit.load(saved(torch.jit.trace(net, X), folder)),
    "loaded script": lambda net, folder: torch.jit.load(saved(torch.jit.script(net), folder)),
    "loaded frozen script": lambda net, folder: torch.jit.load(saved(torch.jit.freeze(torch.jit.script(net)), folder)),
    "path of a trace": lambda net, folder: saved(torch.jit.trace(net, X), folder),
    "path of a script, as a string": lambda net, folder: str(saved(torch.jit.script(net), folder)),
    "exported program": lambda net, folder: torch.export.export(net, (X,)),
    "path of an ONNX file": exported_file,
    "ModelProto": lambda net, folder: onnx.load(exported_file(net, folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_gives_the_same_numbers_and_precisions(net, tmp_path, form):
    conversion = convert(FORMS[form](net, tmp_path), [X], backend="none")
    comparison = conversion.report.comparison
    assert comparison.ok, (comparison.reference, comparison.outputs)
    session = onnxruntime.InferenceSession(conversion.onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    [name] = [i.name for i in session.get_inputs()]
    [found] = session.run(None, {name: X.numpy()})
    assert found.dtype == np.float16
    assert np.allclose(found, net(X).numpy(), atol=6e-3)
    kinds = [n.precision for n in conversion.plan.nodes if n.op in ("Conv", "Gemm", "MatMul")]
    assert kinds == ["fp32", "fp16"]


@pytest.mark.parametrize("form", ["trace", "script", "path of a trace", "exported program"])
def test_a_form_with_names_keeps_the_names_of_its_weights(net, tmp_path, form):
    conversion = convert(FORMS[form](net, tmp_path), [X], backend="none")
    named = {t.name for t in conversion.onnx.graph.initializer}
    assert {"conv.weight", "conv.bias", "head.bias"} <= named


def test_a_frozen_module_stays_usable(net):
    frozen = torch.jit.freeze(torch.jit.script(net))
    convert(frozen, [X], backend="none")
    assert torch.equal(frozen(X), net(X))


def test_an_onnx_model_needs_no_inputs_where_its_shapes_are_static(net, tmp_path):
    conversion = convert(exported_file(net, tmp_path), backend="none")
    assert conversion.report.comparison.ok


def test_an_onnx_model_with_its_weights_beside_it_is_read(net, tmp_path):
    inline = onnx.load(exported_file(net, tmp_path))
    path = tmp_path / "external.onnx"
    onnx.save(inline, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert convert(path, backend="none").report.comparison.ok


# Inputs of an ONNX graph ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([X, X], "2 inputs were given, and the graph has 1: x"),
        ({"wrong": X}, "the graph has no input 'wrong'"),
        ([X[0]], "input 'x' has rank 4"),
        ([Input((1, 1, 8, 9))], "axis 3 of input 'x' is 8"),
        (3, "3 cannot stand for an input"),
    ],
)
def test_inputs_that_do_not_fit_an_onnx_graph_are_named(net, tmp_path, inputs, words):
    with pytest.raises(InputError, match=words):
        convert(exported_file(net, tmp_path), inputs, backend="none")


def test_a_dynamic_shape_of_an_onnx_graph_must_be_given(net, tmp_path):
    path = tmp_path / "dynamic.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (X,), str(path), dynamo=False, do_constant_folding=False, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    with pytest.raises(InputError, match=r"the shape of input 'x' is dynamic \(batchx1x8x8\)"):
        convert(path, backend="none")
    ranged = Input(min_shape=(1, 1, 8, 8), opt_shape=(2, 1, 8, 8), max_shape=(5, 1, 8, 8))
    assert convert(path, [ranged], backend="none").report.comparison.ok


# What is no model -----------------------------------------------------------------------------------------------------


def written(name, content):
    def write(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return write


def state_dict(folder):
    torch.save(nn.Linear(2, 2).state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def pickled_module(folder):
    torch.save(nn.Linear(2, 2), folder / "module.pt")
    return folder / "module.pt"


def exported_program(folder):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), folder / "program.pt2")
    return folder / "program.pt2"


def cut(share):
    def write(folder):
        path = folder / "whole.pt"
        torch.jit.save(torch.jit.script(nn.Linear(64, 64)), path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return write


def hollow(folder):
    """A zip with the outline of TorchScript and nothing in it."""
    path = folder / "hollow.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model/constants.pkl", "model/data.pkl", "model/version"):
            archive.writestr(name, b"3")
    return path


def other_zip(folder):
    path = folder / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return path


BAD = {
    "weights from torch.save": (state_dict, "pickled"),
    "module from torch.save": (pickled_module, "pickled"),
    "saved ExportedProgram": (exported_program, "an ExportedProgram"),
    "bare pickle": (written("model.pkl", pickle.dumps({"a": 1})), "neither TorchScript nor ONNX"),
    "text": (written("model.pt", b"this is no model, but a text\n" * 9), "neither TorchScript nor ONNX"),
    "empty": (written("model.pt", b""), "neither TorchScript nor ONNX"),
    "empty ONNX": (written("model.onnx", b""), "no nodes"),
    "garbage ONNX": (written("model.onnx", b"\x00\xff" * 500), "not an ONNX model"),
    "cut TorchScript": (cut(0.6), "neither TorchScript nor ONNX"),
    "almost whole TorchScript": (cut(0.98), "neither TorchScript nor ONNX"),
    "hollow TorchScript": (hollow, "cannot be read"),
    "other zip": (other_zip, "not TorchScript"),
    "nonexistent": (lambda folder: folder / "nowhere.pt", "no such file"),
    "directory": (lambda folder: folder, "no such file"),
    "integer": (lambda folder: 3, "a int is not a model"),
    "class": (lambda folder: nn.Linear, "a type is not a model"),
    "state dict": (lambda folder: nn.Linear(2, 2).state_dict(), "OrderedDict is not a model"),
    "none": (lambda folder: None, "a NoneType is not a model"),
    "empty ModelProto": (lambda folder: onnx.ModelProto(), "no nodes"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_model_is_refused_in_words(tmp_path, what):
    make, words = BAD[what]
    with pytest.raises(SourceError, match=words) as caught:
        convert(make(tmp_path), [torch.ones(1, 2)], backend="none")
    error = caught.value
    assert error.fix or error.where
    assert len(str(error)) > 30


def test_nothing_is_unpickled_from_a_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the file was unpickled",))

    for name in ("zip.pt", "legacy.pt"):
        torch.save({"x": Bomb()}, tmp_path / name, _use_new_zipfile_serialization=name == "zip.pt")
        with pytest.raises(SourceError):
            source.load(tmp_path / name)


def test_missing_weights_beside_an_onnx_file_are_an_error_of_ours(net, tmp_path):
    inline = onnx.load(exported_file(net, tmp_path))
    path = tmp_path / "external.onnx"
    onnx.save(inline, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConversionError, match=r"weights\.bin"):
        convert(path, backend="none")


# What the user hears --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["module", "loaded script", "frozen trace", "path of a script, as a string", "ModelProto"]
)
def test_pytorchs_own_notices_do_not_reach_the_user(net, tmp_path, capfd, form):
    model = FORMS[form](net, tmp_path)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, [X], backend="none")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("text", "why"), [
    ("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }", "output 'y' is no tensor"),
    ("g (float[2] x) => (optional(float[2]) y) { y = Optional(x) }", "output 'y' is no tensor"),
    ("g (int4[2] x) => (float[2] y) { y = Cast<to=1>(x) }", "Int4"),
])  # fmt: skip
def test_what_cannot_be_compared_is_converted_all_the_same(text, why):
    with pytest.warns(ConversionWarning, match="not compared"):
        conversion = convert(parse(text, opset=21), backend="none")
    assert why in conversion.report.comparison.reference
    onnx.checker.check_model(conversion.onnx, full_check=True)


def test_casts_of_before_opset_6_are_refused_because_they_name_their_type_in_words():
    model = parse('g (float16[2] x) => (float[2] y) { y = Cast<to="FLOAT">(x) }', opset=5)
    with pytest.raises(SourceError, match="opset 5, in which a Cast names its type"):
        convert(model, backend="none")
    old = parse("g (float[2] x) => (float[2] y) { y = Identity(x) }", opset=5)
    assert convert(old, backend="none").report.comparison.ok

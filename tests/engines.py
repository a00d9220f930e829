"""Engines for tests of the runtime, built in this process with the API of TensorRT, from ONNX text."""

import importlib
import sys
from pathlib import Path

import onnx

DOUBLES = Path(__file__).parent / "doubles"
_DOUBLES = {}
HEADER = '<ir_version: 9, opset_import: ["" : 20]>\n'


def double(monkeypatch, version="10.13"):
    """The double of a version, as the module `tensorrt` of this process; `monkeypatch` takes it away again."""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    module = _imported(monkeypatch, version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def _imported(monkeypatch, version):
    if version not in _DOUBLES:
        monkeypatch.syspath_prepend(DOUBLES / f"tensorrt_{version.replace('.', '_')}")
        _DOUBLES[version] = importlib.import_module("tensorrt")
        del sys.modules["tensorrt"]  # else it would be what `monkeypatch` finds, and puts back in the end
    return _DOUBLES[version]


def built(trt, text, profiles=(), formats=None):
    """The bytes of an engine.

    Args:
        trt: the module.
        text: the graph, as ONNX text without a header, or a ModelProto.
        profiles: for each a dict of input -> (min, opt, max): of tuples the shapes, of lists the values of a shape tensor.
        formats: input or output -> the name of its TensorFormat.
    """
    from torch2trt_onnx.runtime.log import log_of

    log = log_of(trt)
    flags = trt.NetworkDefinitionCreationFlag
    bits = [getattr(flags, name, None) for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH")]
    builder = trt.Builder(log)
    network = builder.create_network(sum(1 << int(bit) for bit in bits if bit is not None))
    parser = trt.OnnxParser(network, log)
    model = onnx.parser.parse_model(HEADER + text) if isinstance(text, str) else text
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    tensors = [*map(network.get_input, range(network.num_inputs)), *map(network.get_output, range(network.num_outputs))]
    for tensor in tensors:
        name = (formats or {}).get(tensor.name)
        if name:
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, name))
    config = builder.create_builder_config()
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, ends in ranges.items():
            if isinstance(ends[0], list):
                profile.set_shape_input(name, *ends)
            else:
                profile.set_shape(name, *map(trt.Dims, ends))
        assert config.add_optimization_profile(profile) >= 0
    made = builder.build_serialized_network(network, config)
    assert made is not None, log.take()
    return bytes(memoryview(made))

"""What is in the zoo: how each model is written, what it is given, and in what ranges its inputs have their shapes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import realistic
import torch
import zoo_networks as networks
import zoo_samples as samples
from onnx import TensorProto, helper, numpy_helper
from realistic import Array
from shipped import pretrained, shipped
from torch import nn

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
Sample = Callable[[int], dict[str, Array]]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        name: of its folder.
        about: what it is, and where it is from.
        real: whether its weights are trained.
        write: writes it to a path.
        sample: the inputs of an index, by name.
        ranges: the smallest, usual and largest shape of each input.
        sets: the outputs, by number, whose rows may come in another order.
    """

    name: str
    about: str
    real: bool
    write: Callable[[Path], None]
    sample: Sample
    ranges: dict[str, Range]
    sets: tuple[int, ...] = ()


def export(
    make: Callable[[], nn.Module],
    sample: Sample,
    outputs: Sequence[str],
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = 17,
    dynamo: bool = False,
) -> None:
    """Export a module as a user does: from the inputs of one sample, with the defaults of the exporter."""
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in sample(0).items()}
    axes = {name: dict(axes) for name, axes in (dynamic or {}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            make(),
            tuple(given.values()),
            str(path),
            input_names=list(given),
            output_names=list(outputs),
            dynamic_axes=None if dynamo else axes,
            dynamic_shapes=(tuple(axes.get(name) for name in given),) if dynamo and axes else None,
            opset_version=opset,
            dynamo=dynamo,
            external_data=False,
        )


def copy(source: Callable[[], Path], path: Path) -> None:
    shutil.copyfile(source(), path)


def _unnamed(folder: str, file: str, path: Path) -> None:
    """Copy a shipped file, without the name "?" that some have for height and width alike: TensorRT takes them to be equal then."""
    model = onnx.load(shipped(folder, file))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param == "?":
            dim.ClearField("dim_param")
    onnx.save(model, path)


def static(shape: Shape) -> Range:
    return shape, shape, shape


# --- models that need more than an export


def suppressed(sample: Sample, path: Path) -> None:
    """The detector, with ONNX's NonMaxSuppression behind it, as exporters of detectors append it."""
    raw = path.with_name("raw.onnx")
    export(lambda: networks.settled(networks.Detector(networks.every)), sample, ["boxes", "scores"], raw)
    model = onnx.load(raw)
    raw.unlink()
    limits = (
        ("most", np.array([20], np.int64)),
        ("overlap", np.array([0.5], np.float32)),
        ("least", np.array([0.1], np.float32)),
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in limits)
    names = ["boxes", "scores", *(name for name, _ in limits)]
    model.graph.node.append(helper.make_node("NonMaxSuppression", names, ["selected"], "suppress"))
    model.graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, [None, 3]))
    onnx.save(model, path)


BATCH: Mapping[int, str] = {0: "batch"}
SEQUENCE: Mapping[int, str] = {0: "batch", 1: "sequence"}
IDS = ("input_ids", "attention_mask")
WORDS: dict[str, Range] = dict.fromkeys(IDS, ((1, 8), (2, 128), (4, 256)))
PICTURE: Range = ((1, 3, 224, 224), (2, 3, 224, 224), (8, 3, 224, 224))


def of_text(name: str, about: str, kind: str, config: dict[str, Any], vocabulary: int, **how: Any) -> Entry:
    """A language model of transformers, of dynamic batch and sequence."""
    fixed = how.pop("fixed", {})
    sample = (
        partial(samples.text, length=128)
        if vocabulary == 0
        else partial(samples.tokens, length=128, vocabulary=vocabulary)
    )
    result = how.pop("result", "last_hidden_state")
    make = partial(networks.transformer, kind, IDS, [result], config, **fixed)
    write = partial(export, make, sample, [result], dynamic=dict.fromkeys(IDS, SEQUENCE), **how)
    return Entry(name, f"{about}; transformers, random weights", False, write, sample, WORDS)


def of_pictures(name: str, about: str, make: Callable[[], nn.Module], *, real: bool = False, **how: Any) -> Entry:
    """A network of photographs, of dynamic batch."""
    sample = partial(samples.photographs, "image", 2, 224)
    write = partial(export, make, sample, how.pop("outputs", ["result"]), dynamic={"image": BATCH}, **how)
    return Entry(name, about, real, write, sample, {"image": PICTURE})


def classifier(kind: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    return partial(networks.transformer, kind, ["pixel_values"], ["logits"], config)


def face(name: str, size: int, outputs: Sequence[str]) -> Entry:
    sample = partial(samples.photographs, "image", 4, size, scale=realistic.HALVES)
    write = partial(export, partial(pretrained.facenet, name), sample, outputs, dynamic={"image": BATCH})
    shapes: Range = ((1, 3, size, size), (4, 3, size, size), (16, 3, size, size))
    return Entry(name.lower(), f"MTCNN's {name}; facenet-pytorch", True, write, sample, {"image": shapes})


def ocr(name: str, about: str, folder: str, file: str, sample: Sample, shapes: Range) -> Entry:
    return Entry(name, f"PP-OCR {about}", True, partial(_unnamed, folder, file), sample, {"x": shapes})


def light(name: str, binding: str) -> Entry:
    def source() -> Path:
        return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"

    about = "the onnx package's; opset 9, initializers listed as inputs, weights made by ConstantOfShape"
    shapes = {binding: static((1, 3, 224, 224))}
    return Entry(f"light_{name}", about, False, partial(copy, source), partial(samples.caffe, binding), shapes)

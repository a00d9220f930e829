"""The passes, one a file. Import them from here; the order that they run in is in `torch2trt_onnx.pipeline`."""

from torch2trt_onnx.passes.annotate_precision import AnnotatePrecision
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.passes.bind_inputs import BindInputs
from torch2trt_onnx.passes.bind_outputs import BindOutputs
from torch2trt_onnx.passes.compare_twin import CompareTwin
from torch2trt_onnx.passes.demote_double import DemoteDouble
from torch2trt_onnx.passes.drop_noop_casts import DropNoopCasts
from torch2trt_onnx.passes.emulate_reduced import EmulateReduced
from torch2trt_onnx.passes.fold_constants import FoldConstants
from torch2trt_onnx.passes.fold_weight_casts import FoldWeightCasts
from torch2trt_onnx.passes.guard_recurrent_casts import GuardRecurrentCasts
from torch2trt_onnx.passes.inline_ifs import InlineIfs
from torch2trt_onnx.passes.join_layer_norm import JoinLayerNorm
from torch2trt_onnx.passes.lift_constants import LiftConstants
from torch2trt_onnx.passes.match_pytorch import MatchPyTorch
from torch2trt_onnx.passes.measure_ranges import MeasureRanges
from torch2trt_onnx.passes.merge_casts import MergeCasts
from torch2trt_onnx.passes.narrow_integers import NarrowIntegers
from torch2trt_onnx.passes.repair_bfloat16 import RepairBFloat16
from torch2trt_onnx.passes.repair_normalization import RepairNormalization
from torch2trt_onnx.passes.retype import Retype
from torch2trt_onnx.passes.switch_precision import SwitchPrecision

__all__ = [
    "AnnotatePrecision",
    "BindInputs",
    "BindOutputs",
    "Change",
    "CompareTwin",
    "DemoteDouble",
    "DropNoopCasts",
    "EmulateReduced",
    "FoldConstants",
    "FoldWeightCasts",
    "GuardRecurrentCasts",
    "InlineIfs",
    "JoinLayerNorm",
    "LiftConstants",
    "MatchPyTorch",
    "MeasureRanges",
    "MergeCasts",
    "NarrowIntegers",
    "Pass",
    "RepairBFloat16",
    "RepairNormalization",
    "Retype",
    "SwitchPrecision",
]

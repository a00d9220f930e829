"""What the parser makes of ONNX operators, and in which types TensorRT runs them."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS: dict[str, str] = {}
"""ONNX operator -> member of LayerType."""


def _all(kind: str, operators: str) -> None:
    LAYERS.update(dict.fromkeys(_words(operators), kind))


_all("CONVOLUTION", "Conv")
_all("DECONVOLUTION", "ConvTranspose")
_all("CAST", "Cast CastLike")
_all("ACTIVATION", "Relu Sigmoid Tanh LeakyRelu Elu Selu Softsign Softplus Clip HardSigmoid ThresholdedRelu")
_all("ACTIVATION", "Gelu Celu HardSwish Mish")
_all("ELEMENTWISE", "Add Sub Mul Div Pow Min Max And Or Xor Equal Greater Less Mod Sum Mean")
_all("ELEMENTWISE", "GreaterOrEqual LessOrEqual BitwiseAnd BitwiseOr")
_all("UNARY", "Exp Log Sqrt Reciprocal Abs Neg Sin Cos Tan Sinh Cosh Asin Acos Atan Asinh Acosh Atanh Ceil Floor Erf")
_all("UNARY", "Not Sign Round IsInf IsNaN")
_all("MATRIX_MULTIPLY", "MatMul Gemm")
_all("SOFTMAX", "Softmax LogSoftmax")
_all("POOLING", "MaxPool AveragePool LpPool")
_all("REDUCE", "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp")
_all("REDUCE", "ReduceSumSquare GlobalAveragePool GlobalMaxPool")
_all("SHAPE", "Shape Size")
_all("CONSTANT", "Constant")
_all("TOPK", "TopK ArgMax ArgMin")
_all("QUANTIZE", "QuantizeLinear")
_all("DEQUANTIZE", "DequantizeLinear")
_all("IDENTITY", "Identity Dropout")
_all("NORMALIZATION", "LayerNormalization GroupNormalization InstanceNormalization")
_all("SCALE", "BatchNormalization")
_all("SHUFFLE", "Reshape Transpose Flatten DepthToSpace SpaceToDepth Squeeze Unsqueeze")
_all("CONCATENATION", "Concat")
_all("SLICE", "Slice Split Pad Expand Tile")
_all("GATHER", "Gather GatherElements GatherND")
_all("SCATTER", "ScatterElements ScatterND Scatter")
_all("SELECT", "Where Trilu")
_all("RESIZE", "Resize Upsample")
_all("PARAMETRIC_RELU", "PRelu")
_all("FILL", "ConstantOfShape Range RandomUniform RandomNormal RandomUniformLike RandomNormalLike EyeLike")
_all("NON_ZERO", "NonZero")
_all("EINSUM", "Einsum")
_all("ONE_HOT", "OneHot")
_all("GRID_SAMPLE", "GridSample")
_all("REVERSE_SEQUENCE", "ReverseSequence")
_all("NMS", "NonMaxSuppression")
_all("LRN", "LRN")
_all("CUMULATIVE", "CumSum")
_all("LOOP_OUTPUT", "Loop Scan LSTM GRU RNN")
_all("CONDITIONAL_OUTPUT", "If")
_all("PLUGIN_V2", "RoiAlign")

LACKS = {
    (8, 6): _words("Gelu GroupNormalization HardSwish Mish BitwiseAnd BitwiseOr CumSum"),
}
"""Version -> operators that its parser does not know, though a later one does. Conservative: lacking is safer."""

REDUCES = frozenset(name for name in LAYERS if name.startswith("Reduce"))

WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "BatchNormalization": (1, 2, 3, 4),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
"""Operands that become weights of the layer, and no layer of their own."""

SHAPES = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Resize": (2, 3),
    "Upsample": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "TopK": (1,),
    "Split": (1,),
    "OneHot": (1,),
    "Range": (0, 1, 2),
    **dict.fromkeys(REDUCES, (1,)),
}
"""Operands whose values make shapes: they are shape tensors, or constants that the parser reads."""

SHAPE_MATH = _words(
    "Add Sub Mul Div Min Max Gather Concat Slice Cast Unsqueeze Squeeze Reshape Identity Equal Greater Less Where Mod Floor Ceil "
    "ReduceProd ReduceSum ReduceMax ReduceMin Expand ConstantOfShape And Or Not Neg Abs Range Split Flatten"
)
"""Operators that keep shape arithmetic what it is."""

SAME_TYPE = {
    **dict.fromkeys(
        [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Pow",
            "Min",
            "Max",
            "Sum",
            "Mean",
            "Equal",
            "Greater",
            "Less",
            "GreaterOrEqual",
            "LessOrEqual",
            "MatMul",
            "PRelu",
        ],
        (0, 1),
    ),
    "Gemm": (0, 1, 2),
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Where": (1, 2),
    "Concat": tuple(range(64)),
    "BatchNormalization": (0, 1, 2, 3, 4),
    "LayerNormalization": (0, 1, 2),
    "GroupNormalization": (0, 1, 2),
    "InstanceNormalization": (0, 1, 2),
}
"""Operands that must be of one type under strong typing."""

ONLY_FP32 = _words("NonZero RoiAlign CumSum NonMaxSuppression OneHot")
"""Operators without a kernel in a reduced precision."""
NO_BF16 = _words("ConvTranspose GridSample LRN Resize Upsample LSTM GRU RNN")
"""Operators without a kernel in bf16."""
INT8 = _words("Conv ConvTranspose MatMul Gemm")
"""Operators that run in int8 between Q/DQ."""


def runs_in(op: str, dtype: str) -> bool:
    """Whether TensorRT has a kernel of an operator in a float type. A small table: it stands for TensorRT's, which is larger."""
    if op in ONLY_FP32:
        return dtype == "FLOAT"
    if op in NO_BF16:
        return dtype in ("FLOAT", "HALF")
    return dtype in ("FLOAT", "HALF", "BF16")

"""What each version of TensorRT has otherwise than the stubs, which are those of 10.13.

Sections are those of shared/reference/tensorrt_versions.md. Where a fact was not found the version lacks the name: code that does
without it runs with either.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Version:
    """One version.

    Args:
        text: `__version__`.
        lacks: names that the stubs have and this version has not: a class, "Class.member", "Class.attribute" or "Class.method".
        read_only: attributes that cannot be set.
        values: enum -> member -> value, where it is another one; members that the stubs do not have are new.
        adds: classes and members that the stubs do not have, as a stub.
        opset: the newest that the parser knows.
        metadata: whether the parser tells a layer's ONNX node.
        always_strong: whether networks are strongly typed without a flag.
        implicit_batch: whether a network without EXPLICIT_BATCH has an implicit batch dimension.
        build_prefix: how errors of a build begin.
    """

    text: str
    lacks: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    adds: str = ""
    opset: int = 22
    metadata: bool = True
    always_strong: bool = False
    implicit_batch: bool = False
    build_prefix: str = "IBuilder::buildSerializedNetwork:"

    @property
    def number(self) -> tuple[int, ...]:
        """For comparisons."""
        return tuple(int(part) for part in self.text.split("."))

    def has(self, dtype: str) -> bool:
        """Whether there is a type."""
        return f"DataType.{dtype}" not in self.lacks


def _parts(owner: str, names: str) -> set[str]:
    return {f"{owner}.{name}" for name in names.split()}


def _names(names: str) -> list[str]:
    return names.split()


REDUCED = "FP16 BF16 INT8 FP8 INT4 FP4"
WEAK = "precision precision_is_set reset_precision set_output_type output_type_is_set reset_output_type"
RANGES = "dynamic_range set_dynamic_range reset_dynamic_range"
CALIBRATION = (
    "IInt8Calibrator IInt8EntropyCalibrator IInt8EntropyCalibrator2 IInt8LegacyCalibrator IInt8MinMaxCalibrator"
)

# Version 11: section 2, "Removed in 11 (Python)"; values: section 3. DIRECT_IO is kept, as the v11.0 header has it. The values of
# the other builder flags are 10.13's: section 3 tells of two only.
ELEVEN = Version(
    "11.0.0",
    lacks=frozenset(
        {
            *_parts("BuilderFlag", f"{REDUCED} OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS"),
            *_parts("BuilderFlag", "REJECT_EMPTY_ALGORITHMS WEIGHTLESS"),
            *_parts("ILayer", WEAK),
            *_parts("ITensor", RANGES),
            *_parts(
                "IBuilderConfig", "int8_calibrator set_calibration_profile get_calibration_profile algorithm_selector"
            ),
            *_parts(
                "IBuilderConfig",
                "quantization_flags set_quantization_flag clear_quantization_flag get_quantization_flag",
            ),
            *_parts("Builder", "platform_has_tf32 platform_has_fast_fp16 platform_has_fast_int8"),
            *_parts(
                "ICudaEngine", "device_memory_size get_device_memory_size_for_profile has_implicit_batch_dimension"
            ),
            *_parts("ICudaEngine", "create_execution_context_without_device_memory"),
            *_parts("TacticSource", "CUBLAS CUBLAS_LT CUDNN"),
            "INormalizationLayer.compute_precision",
            "INetworkDefinition.has_implicit_batch_dimension",
            "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
            "PreviewFeature.PROFILE_SHARING_0806",
            *_names(CALIBRATION),
            *_names("QuantizationFlag CalibrationAlgoType IAlgorithm IAlgorithmContext IAlgorithmIOInfo"),
            *_names("IAlgorithmSelector IAlgorithmVariant IStreamReader"),
        }
    ),
    read_only=frozenset({"ITensor.dtype"}),
    values={
        "NetworkDefinitionCreationFlag": {
            "STRONGLY_TYPED": 0,
            "PREFER_JIT_PYTHON_PLUGINS": 1,
            "PREFER_AOT_PYTHON_PLUGINS": 2,
        },
        "BuilderFlag": {"VERSION_COMPATIBLE": 12, "DIRECT_IO": 11},
    },
    adds="""
class INetworkDefinition:
    def add_quantize(self, input: ITensor, scale: ITensor, output_type: DataType) -> IQuantizeLayer: ...
    def add_dequantize(self, input: ITensor, scale: ITensor, output_type: DataType) -> IDequantizeLayer: ...
""",
    opset=24,
    always_strong=True,
)

# Version 8.6: types and flags: section 3; strong typing came with 9; the rest after the documentation of 8.6's Python API. What 8.6
# had and later versions dropped (bindings by index, max_workspace_size, implicit-batch calls) is not added: code for both goes without.
EIGHT = Version(
    "8.6.1",
    lacks=frozenset(
        {
            *_parts("DataType", "BF16 INT64 INT4 FP4 E8M0"),
            *_parts(
                "BuilderFlag",
                "BF16 INT4 FP4 EDITABLE_TIMING_CACHE ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE",
            ),
            *_parts(
                "BuilderFlag", "WEIGHTLESS STRIP_PLAN REFIT_IDENTICAL WEIGHT_STREAMING REFIT_INDIVIDUAL STRICT_NANS"
            ),
            *_parts("BuilderFlag", "MONITOR_MEMORY DISTRIBUTIVE_INDEPENDENCE"),
            *_parts(
                "NetworkDefinitionCreationFlag", "STRONGLY_TYPED PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS"
            ),
            *_parts("PreviewFeature", "ALIASED_PLUGIN_IO_10_03 RUNTIME_ACTIVATION_RESIZE_10_10"),
            *_parts("TensorFormat", "DHWC"),
            *_parts("MemoryPoolType", "TACTIC_DRAM TACTIC_SHARED_MEMORY"),
            *_parts("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"),
            *_parts("ActivationType", "GELU_ERF GELU_TANH"),
            *_parts("UnaryOperation", "ISNAN"),
            *_parts("OnnxParserFlag", "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA"),
            *_parts("LayerType", "PLUGIN_V3 SQUEEZE UNSQUEEZE CUMULATIVE DYNAMIC_QUANTIZE"),
            *_parts("ErrorCode", "UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_DATATYPE"),
            *_parts("ErrorCode", "UNSUPPORTED_NODE_DYNAMIC UNSUPPORTED_NODE_SHAPE REFIT_FAILED"),
            *_parts("Builder", "build_serialized_network_to_stream build_engine_with_config"),
            *_parts(
                "IBuilderConfig", "progress_monitor runtime_platform tiling_optimization_level l2_limit_for_tiling"
            ),
            *_parts("IBuilderConfig", "max_num_tactics remote_auto_tuning_config"),
            *_parts("INetworkDefinition", "add_plugin add_plugin_v3 add_cumulative add_dynamic_quantize add_squeeze"),
            *_parts(
                "INetworkDefinition", "add_unsqueeze is_debug_tensor mark_debug unmark_debug builder flags get_flag"
            ),
            *_parts(
                "INetworkDefinition", "mark_unfused_tensors_as_debug_tensors unmark_unfused_tensors_as_debug_tensors"
            ),
            *_parts(
                "INetworkDefinition", "are_weights_marked_refittable mark_weights_refittable unmark_weights_refittable"
            ),
            *_parts("IQuantizeLayer", "to_type"),
            *_parts("IDequantizeLayer", "to_type"),
            *_parts("IFillLayer", "to_type"),
            *_parts("ITimingCache", "query queryKeys update"),
            *_parts("ICudaEngine", "device_memory_size_v2 get_device_memory_size_for_profile is_debug_tensor"),
            *_parts(
                "ICudaEngine", "get_device_memory_size_for_profile_v2 get_tensor_profile_values create_runtime_config"
            ),
            *_parts("ICudaEngine", "create_serialization_config serialize_with_config streamable_weights_size"),
            *_parts(
                "ICudaEngine", "weight_streaming_budget weight_streaming_budget_v2 minimum_weight_streaming_budget"
            ),
            *_parts("ICudaEngine", "get_weight_streaming_automatic_budget weight_streaming_scratch_memory_size"),
            *_parts(
                "IExecutionContext", "get_debug_listener set_debug_listener get_debug_state set_tensor_debug_state"
            ),
            *_parts("IExecutionContext", "set_all_tensors_debug_state unfused_tensors_debug_state get_runtime_config"),
            *_parts("IExecutionContext", "set_device_memory update_device_memory_size_for_shapes"),
            *_parts("OnnxParser", "get_layer_output_tensor supports_model_v2 is_subgraph_supported get_subgraph_nodes"),
            *_parts("OnnxParser", "num_subgraphs load_initializer load_model_proto parse_model_proto"),
            *_parts("ParserError", "node_name node_operator local_function_stack local_function_stack_size"),
            *_names("IProgressMonitor IStreamReader IStreamReaderV2 IStreamWriter SeekPosition IRuntimeConfig"),
            *_names("ISerializationConfig SerializationFlag IDebugListener ExecutionContextAllocationStrategy"),
            *_names(
                "TilingOptimizationLevel RuntimePlatform IDynamicQuantizeLayer ICumulativeLayer CumulativeOperation"
            ),
            *_names("ISqueezeLayer IUnsqueezeLayer OnnxParserRefitter IVersionedInterface InterfaceInfo APILanguage"),
            *_names(
                "IPluginCapability IPluginCreatorInterface IPluginCreatorV3One IPluginCreatorV3Quick IPluginResource"
            ),
            *_names(
                "IPluginResourceContext IPluginV3 IPluginV3Layer IPluginV3OneBuild IPluginV3OneBuildV2 IPluginV3OneCore"
            ),
            *_names(
                "IPluginV3OneRuntime IPluginV3QuickAOTBuild IPluginV3QuickBuild IPluginV3QuickCore IPluginV3QuickRuntime"
            ),
            *_names(
                "PluginArgDataType PluginArgType PluginCapabilityType QuickPluginCreationRequest KernelLaunchParams"
            ),
            *_names("IGpuAsyncAllocator TimingCacheKey TimingCacheValue ISymExpr ISymExprs TensorRTPhase"),
        }
    ),
    values={
        "BuilderFlag": {
            **{
                "STRICT_TYPES": 4,
                "REFIT": 5,
                "DISABLE_TIMING_CACHE": 6,
                "TF32": 7,
                "SPARSE_WEIGHTS": 8,
                "SAFETY_SCOPE": 9,
            },
            **{"OBEY_PRECISION_CONSTRAINTS": 10, "PREFER_PRECISION_CONSTRAINTS": 11, "DIRECT_IO": 12},
            **{"REJECT_EMPTY_ALGORITHMS": 13, "ENABLE_TACTIC_HEURISTIC": 14, "VERSION_COMPATIBLE": 15},
            **{"EXCLUDE_LEAN_RUNTIME": 16, "FP8": 17},
        },
        "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
        "PreviewFeature": {
            "FASTER_DYNAMIC_SHAPES_0805": 0,
            "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805": 1,
            "PROFILE_SHARING_0806": 2,
        },
        "LayerType": {
            **{"FULLY_CONNECTED": 1, "RNN_V2": 20, "IDENTITY": 21, "PLUGIN_V2": 22, "SLICE": 23, "SHAPE": 24},
            **{
                "PARAMETRIC_RELU": 25,
                "RESIZE": 26,
                "TRIP_LIMIT": 27,
                "RECURRENCE": 28,
                "ITERATOR": 29,
                "LOOP_OUTPUT": 30,
            },
            **{"SELECT": 31, "FILL": 32, "QUANTIZE": 33, "DEQUANTIZE": 34, "CONDITION": 35, "CONDITIONAL_INPUT": 36},
            **{"CONDITIONAL_OUTPUT": 37, "SCATTER": 38, "EINSUM": 39, "ASSERTION": 40, "ONE_HOT": 41, "NON_ZERO": 42},
            **{"GRID_SAMPLE": 43, "NMS": 44, "REVERSE_SEQUENCE": 45, "NORMALIZATION": 46, "CAST": 47},
        },
    },
    adds="""
class ICudaEngine:
    def create_execution_context(self) -> IExecutionContext: ...
class INetworkDefinition:
    def add_quantize(self, input: ITensor, scale: ITensor) -> IQuantizeLayer: ...
    def add_dequantize(self, input: ITensor, scale: ITensor) -> IDequantizeLayer: ...
    def add_fill(self, shape: Dims, op: FillOperation) -> IFillLayer: ...
class Runtime:
    def deserialize_cuda_engine(self, serialized_engine: typing_extensions.Buffer) -> ICudaEngine: ...
""",
    opset=17,
    metadata=False,
    implicit_batch=True,
    build_prefix="4: [network.cpp::validate::3062]",
)

VERSIONS = {"8.6": EIGHT, "10.13": Version("10.13.0.35"), "11.0": ELEVEN}

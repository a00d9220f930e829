"""Models of `IBuilderConfig`, `IOptimizationProfile`, `ITimingCache`: the options of a build."""

from __future__ import annotations

import json
from typing import Any

from .binding import Model, Module
from .values import Dims, HostMemory, Log, ints

CACHE = b"TENSORRT DOUBLE TIMING CACHE\n"
GPU_BYTES = 80 * 2**30


class Profile(Model):
    """The ranges of dynamic inputs."""

    cls = "IOptimizationProfile"

    def __init__(self, module: Module) -> None:
        self.module = module
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.values: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.extra_memory_target = 1.0

    def set_shape(self, name: str, low: Dims, opt: Dims, high: Dims) -> None:
        """Set the range of a shape.

        Raises:
            ValueError: it is no range.
        """
        shapes = ints(low), ints(opt), ints(high)
        if min((*shapes[0], 0)) < 0:
            raise ValueError("Shape provided for min is inconsistent with other parameters.")
        _check_range(shapes)
        self.shapes[name] = shapes

    def set_shape_input(self, name: str, low: list[int], opt: list[int], high: list[int]) -> None:
        """Set the range of the values of a shape tensor.

        Raises:
            ValueError: it is no range.
        """
        values = tuple(low), tuple(opt), tuple(high)
        _check_range(values)
        self.values[name] = values

    def get_shape(self, name: str) -> list[Any]:
        """The range of a shape; empty where none was set."""
        return [self.module.dims(shape) for shape in self.shapes.get(name, ())]

    def get_shape_input(self, name: str) -> list[list[int]]:
        """The range of values; empty where none was set."""
        return [list(values) for values in self.values.get(name, ())]

    def __bool__(self) -> bool:
        return True  # a range that is none was refused when it was set


def _check_range(ends: tuple[tuple[int, ...], ...]) -> None:
    low, opt, high = ends
    for word, lower, upper in (("opt", low, opt), ("max", opt, high)):
        if len(lower) != len(upper) or any(a > b for a, b in zip(lower, upper, strict=True)):
            raise ValueError(f"Shape provided for {word} is inconsistent with other parameters.")


class TimingCache(Model):
    """What was measured; here the names of the layers that were built."""

    cls = "ITimingCache"

    def __init__(self, module: Module, names: set[str]) -> None:
        self.module, self.names = module, names

    def serialize(self) -> HostMemory:
        """For a file."""
        told = {"version": self.module.version.text, "names": sorted(self.names)}
        return HostMemory(self.module, CACHE + json.dumps(told).encode())

    def combine(self, other: TimingCache, _ignore_mismatch: bool) -> bool:
        """Add what another knows."""
        self.names |= other.names
        return True

    def reset(self) -> bool:
        """Forget all."""
        self.names.clear()
        return True


class Config(Model):
    """The options of a build."""

    cls = "IBuilderConfig"

    def __init__(self, module: Module, log: Log) -> None:
        self.module, self.log = module, log
        self.profiles: list[Profile] = []
        self.reset()

    def reset(self) -> None:
        """Set all to what it was."""
        self.flags = 1 << int(self.module.enum("BuilderFlag.TF32"))
        self.profiling_verbosity = self.module.enum("ProfilingVerbosity.LAYER_NAMES_ONLY")
        self.level = 3
        self.pools: dict[str, int] = {}
        self.features: dict[str, bool] = {}
        self.cache: TimingCache | None = None
        self.progress_monitor: Any = None
        self.max_aux_streams, self.avg_timing_iterations, self.max_num_tactics = -1, 1, -1
        self.profile_stream = self.l2_limit_for_tiling = self.quantization_flags = 0
        self.plugins_to_serialize: list[str] = []
        self.int8_calibrator = self.algorithm_selector = None
        for name, member in (
            ("engine_capability", "EngineCapability.STANDARD"),
            ("hardware_compatibility_level", "HardwareCompatibilityLevel.NONE"),
            ("default_device_type", "DeviceType.GPU"),
            ("runtime_platform", "RuntimePlatform.SAME_AS_BUILD"),
            ("tiling_optimization_level", "TilingOptimizationLevel.NONE"),
        ):
            if member.partition(".")[0] in self.module.names:
                setattr(self, name, self.module.enum(member))

    @property
    def builder_optimization_level(self) -> int:
        """How long to search."""
        return self.level

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        if 0 <= level <= 5:
            self.level = level
        else:
            self.log.error(
                f"IBuilderConfig::setBuilderOptimizationLevel: Error Code 3: API Usage Error ({level} is not in 0..5)"
            )

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self.flags >> int(flag) & 1)

    def has(self, name: str) -> bool:
        """Whether a flag is set that this version may not have."""
        flag = self.module.names["BuilderFlag"].__members__.get(name)
        return flag is not None and self.get_flag(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        """Limit a pool."""
        self.pools[pool.name] = min(size, GPU_BYTES)

    def get_memory_pool_limit(self, pool: Any) -> int:
        """The limit of a pool; of the workspace all that the device has."""
        return self.pools.get(pool.name, GPU_BYTES if pool.name == "WORKSPACE" else 0)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        """Set a feature."""
        self.features[feature.name] = enable

    def get_preview_feature(self, feature: Any) -> bool:
        """Whether a feature is on."""
        return self.features.get(feature.name, False)

    @property
    def num_optimization_profiles(self) -> int:
        """How many."""
        return len(self.profiles)

    def add_optimization_profile(self, profile: Profile) -> int:
        """Add one: its index, or -1."""
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: memoryview) -> TimingCache | None:
        """A cache of bytes; a new one of none; None where they are another version's or no cache."""
        text = bytes(data)
        if not text:
            return TimingCache(self.module, set())
        told = json.loads(text.removeprefix(CACHE)) if text.startswith(CACHE) else {}
        if told.get("version") != self.module.version.text:
            self.log.error(
                "IBuilderConfig::createTimingCache: Error Code 3: API Usage Error (the serialized timing cache does not fit)"
            )
            return None
        return TimingCache(self.module, set(told["names"]))

    def set_timing_cache(self, cache: TimingCache, _ignore_mismatch: bool) -> bool:
        """Use a cache."""
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        """The cache that is used."""
        return self.cache

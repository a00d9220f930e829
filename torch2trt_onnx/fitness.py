"""Whether a saved engine and its files are what they were, and fit the TensorRT and the GPU that are here.

A mismatch is told, and none keeps another from being looked for: who must build again wants to know all at once.
"""

from __future__ import annotations

import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch2trt_onnx.backends import library
from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.hashing import hash_file

PLATFORM = f"{sys.platform} {platform.machine()}"
AGAIN = "convert and save it again, or copy the whole folder again"
LATER_MAJOR = {(8, 9), (8, 10), (9, 10), (10, 11)}
"""Major versions of TensorRT: a version-compatible engine of the first runs on the second, by NVIDIA's guides."""


@dataclass(frozen=True)
class Mismatch:
    """Something that a manifest says and that does not hold here.

    Args:
        what: a file, "version", "device" or "platform".
        expected: what the manifest says.
        found: what is here.
        fix: how to mend it.
    """

    what: str
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: the manifest says {self.expected}; here is {self.found}"


@dataclass(frozen=True)
class FileEntry:
    """What a file was when it was saved."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Engine:
    """What is known of a saved engine.

    Args:
        product, title, version: of the TensorRT that built it: "rtx", "TensorRT-RTX", "1.7.1.116".
        typing: "weak" or "strong".
        compute_capabilities: of the GPUs that it runs on; empty where that is not known.
        bindings: its inputs and outputs.
        verdicts: node -> what the engine proves of its precision, in one word.
        device: the GPU that it was built on; "" where it was built for a list of capabilities.
        platform: the system that it was built on.
        version_compatible: whether it was built to run on later versions as well.
    """

    product: str
    title: str
    version: str
    typing: str
    compute_capabilities: tuple[str, ...]
    bindings: tuple[Binding, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    platform: str = PLATFORM
    version_compatible: bool = False

    def mismatches(self, device: str | None, product_version: str | None) -> list[Mismatch]:
        """What keeps it from running here.

        Args:
            device: the compute capability of the GPU, such as "8.9"; None: not asked.
            product_version: of the TensorRT; None: the one that is installed.
        """
        here = product_version if product_version is not None else installed(self.product)
        found = []
        if not self._runs_on(here):
            fix = f"install {self.title} {self.version}, or convert again with the {self.title} that is here"
            found.append(Mismatch("version", f"{self.title} {self.version}", here or f"no {self.title}", fix))
        if self.product == "tensorrt" and self.platform != PLATFORM:  # engines of TensorRT-RTX run on any
            found.append(Mismatch("platform", self.platform, PLATFORM, "convert again on this system"))
        if device is not None and device not in self.compute_capabilities:
            wanted = tuple(dict.fromkeys([*self.compute_capabilities, device]))
            again = "convert again on this GPU"
            fix = f"convert again with Options(compute_capabilities={wanted})" if self.product == "rtx" else again
            targets = ", ".join(self.compute_capabilities) or "none that is known"
            found.append(Mismatch("device", f"compute capability {targets}", device, fix))
        return found

    def _runs_on(self, here: str) -> bool:
        built, found = _release(self.version), _release(here)
        if not built or not found:
            return self.version == here
        if not self.version_compatible or self.product != "tensorrt":
            return built == found
        return found >= built and (found[0] == built[0] or (built[0], found[0]) in LATER_MAJOR)

    def to_json(self) -> dict[str, Any]:
        """The engine as plain data."""
        verdicts = {"counts": dict(Counter(self.verdicts.values()).most_common()), "nodes": dict(self.verdicts)}
        targets, bindings = list(self.compute_capabilities), [asdict(b) for b in self.bindings]
        return {**vars(self), "compute_capabilities": targets, "bindings": bindings, "verdicts": verdicts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Engine:
        """What `to_json` wrote, where all keys have the right types."""
        known = {key: data[key] for key in cls.__dataclass_fields__}
        targets, verdicts = tuple(data["compute_capabilities"]), data["verdicts"]["nodes"]
        bindings = tuple(_binding(row) for row in data["bindings"])
        return cls(**{**known, "compute_capabilities": targets, "bindings": bindings, "verdicts": verdicts})


def installed(product: str) -> str:
    """The version of the TensorRT that is installed; "" where there is none."""
    if not library.is_installed(product):
        return ""
    return library.version(product) or "one that does not tell its version"


def sizes(files: Mapping[str, FileEntry], known: Iterable[str], folder: Path) -> list[Mismatch]:
    """The files that are missing or of another size, and those of another conversion. None is read.

    Args:
        files: what the manifest says.
        known: the names of what a conversion may save.
        folder: where they lie.
    """
    found = []
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
        except OSError:  # it went in between
            size = None
        if size != entry.bytes:
            here = f"one of {size} bytes" if size is not None else "none"
            found.append(Mismatch(name, f"a file of {entry.bytes} bytes", here, AGAIN))
    strange = [name for name in known if name not in files and (folder / name).exists()]
    return found + [Mismatch(n, "no such file", "one of another conversion", f"remove {n}") for n in strange]


def hashes(files: Mapping[str, FileEntry], names: Iterable[str], folder: Path) -> list[Mismatch]:
    """Which of the named files are not what they were.

    Args:
        files: what the manifest says.
        names: of those to read.
        folder: where they lie.
    """
    found = []
    for name in names:
        try:
            here = f"SHA-256 {hash_file(folder / name)}"
        except OSError as error:
            here = f"one that cannot be read: {error.strerror or error}"
        if here != f"SHA-256 {files[name].sha256}":
            found.append(Mismatch(name, f"SHA-256 {files[name].sha256}", here, AGAIN))
    return found


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version; what packagers write behind them ("10.13.3.9.post1") is not TensorRT's."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _binding(row: Mapping[str, Any]) -> Binding:
    return Binding.from_json({key: row[key] for key in Binding.__dataclass_fields__})

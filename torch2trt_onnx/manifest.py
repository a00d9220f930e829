"""What a saved folder says of itself, so that it can be trusted: where it comes from, what is in it, and where its engine runs.

A manifest tells accidents: a file that is cut, changed, or of another conversion; another TensorRT; another GPU. It is not signed, so it is
no proof against somebody who writes both the files and the manifest.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch2trt_onnx import fitness, wire
from torch2trt_onnx.backends import Backend, library
from torch2trt_onnx.errors import EngineMismatchError, ManifestError
from torch2trt_onnx.fitness import AGAIN, Engine, FileEntry, Mismatch
from torch2trt_onnx.hashing import Stamp, hash_file, hash_json, hash_model, stamp
from torch2trt_onnx.options import Options
from torch2trt_onnx.report import Report
from torch2trt_onnx.schema import BINDING, SHA256, Each, wrong

FORMAT = 1
"""The version of the form below. A change that an older reader would take wrongly needs a new one."""

NAME = "manifest.json"
ENGINE, ONNX, REPORT = "model.engine", "model.onnx", "report.json"
FILES = (ONNX, f"{ONNX}.data", ENGINE, REPORT)
"""What a conversion may save, beside its manifest."""

MADE_BY = ("torch2trt_onnx", "torch", "onnx")


@dataclass(frozen=True)
class Manifest:
    """The manifest of a saved folder.

    Args:
        made_by: package -> version.
        source: `name` and `sha256` of the model; the hash is None where it was in memory, and then `graph` is all there is.
        files: name -> what it was when it was saved.
        graph: the hash of the final graph with its weights, wherever they lie; see `hashing.hash_model`.
        plan: its `sha256`, and the `counts` of nodes by precision.
        asked: what was asked of the precisions; see `plan.Asked`.
        options: see `Options`.
        engine: None where none was built.
        signature: what the model takes and returns; None where that is not known.
        format: of the manifest.
    """

    made_by: Mapping[str, str]
    source: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    graph: str
    plan: Mapping[str, Any]
    asked: Mapping[str, Any]
    options: Mapping[str, Any]
    engine: Engine | None = None
    signature: Mapping[str, Any] | None = None
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        report: Report,
        options: Options,
        backend: Backend | None = None,
        *,
        source_sha256: str | None = None,
        signature: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """The manifest of a conversion that is not saved yet: it knows no files, nor the hash of the graph; see `with_files`.

        Args:
            report: of the conversion.
            options: of the conversion.
            backend: that built the engine; None where there is none.
            source_sha256: of the model; see `exporters.source.fingerprint`.
            signature: what the model takes and returns, as plain data.
        """
        asked = report.plan.asked.to_json()
        nodes = [vars(node) for node in report.plan.nodes]
        return cls(
            versions(MADE_BY),
            {"name": report.source, "sha256": source_sha256},
            {},
            "",
            {"sha256": hash_json({"asked": asked, "nodes": nodes}), "counts": report.plan.counts()},
            _plain(asked),
            _plain(asdict(options)),
            _engine(report, backend) if backend is not None else None,
            _plain(signature),
        )

    def with_files(self, folder: Path) -> Manifest:
        """The same of the files that lie in a folder now. Each is read once, and the weights once more for the hash of the graph.

        Raises:
            OSError: a file cannot be read.
        """
        with ThreadPoolExecutor(1) as beside:
            graph = beside.submit(lambda: hash_model(wire.read(folder / ONNX), folder))
            present = [folder / name for name in FILES if (folder / name).is_file()]
            files = {path.name: FileEntry(hash_file(path), path.stat().st_size) for path in present}
        return replace(self, files=files, graph=graph.result())

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest of a folder. Nothing that it names is opened.

        Raises:
            ManifestError: there is none, or it is damaged, or of a later format.
        """
        path = Path(folder) / NAME
        try:
            return cls.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise ManifestError("the folder has no manifest", where=str(path), fix=AGAIN) from None
        except OSError as error:
            raise ManifestError("the manifest cannot be read", where=str(path), why=error.strerror) from error
        except (ValueError, RecursionError) as error:
            raise ManifestError("the manifest is not JSON", where=str(path), why=str(error), fix=AGAIN) from None
        except ManifestError as error:
            raise ManifestError(error.what, where=str(path), why=error.why, fix=error.fix) from None

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """What `to_json` wrote.

        Raises:
            ManifestError: it did not.
        """
        version = data.get("format") if isinstance(data, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise ManifestError(
                f"the manifest is of format {version}, and this torch2trt_onnx reads up to {FORMAT}",
                fix="install a later torch2trt_onnx, or convert again with this one",
            )
        problem = wrong(data, SCHEMA, "the manifest")
        if not problem and (data["engine"] is None) == (ENGINE in data["files"]):
            problem = f"{ENGINE} is listed and nothing is said of it, or the other way round"
        if not problem and not {ONNX, REPORT} <= set(data["files"]):
            problem = f"{ONNX} or {REPORT} is not listed"
        if problem:
            raise ManifestError("the manifest is damaged", why=problem, fix=AGAIN)
        known = {key: data[key] for key in SCHEMA}
        files = {name: FileEntry(row["sha256"], row["bytes"]) for name, row in data["files"].items()}
        engine = Engine.from_json(data["engine"]) if data["engine"] is not None else None
        return cls(**{**known, "files": files, "engine": engine})

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain data."""
        files = {name: asdict(entry) for name, entry in self.files.items()}
        engine = _plain(self.engine.to_json()) if self.engine is not None else None
        return {"format": self.format, **vars(self), "files": files, "engine": engine}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` to a folder.

        Raises:
            OSError: of the file system.
        """
        (folder / NAME).write_text(json.dumps(self.to_json(), indent=1))

    def check(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        product_version: str | None = None,
        every: bool = False,
    ) -> None:
        """Fail where the folder, or what is installed here, is not what the manifest says. The arguments are those of `mismatches`.

        Raises:
            EngineMismatchError: it names everything that does not fit, and how to mend it.
        """
        found = self.mismatches(folder, device=device, product_version=product_version, every=every)
        if found:
            raise EngineMismatchError(
                f"the saved conversion does not fit: {', '.join(mismatch.what for mismatch in found)}",
                where=str(folder),
                why="\n       ".join(map(str, found)),
                fix="\n       ".join(dict.fromkeys(mismatch.fix for mismatch in found)),
            )

    def mismatches(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        product_version: str | None = None,
        every: bool = False,
    ) -> list[Mismatch]:
        """What does not fit: files by their sizes, then version, system and GPU, and what takes long, the hashes, last.

        Args:
            folder: that the manifest was read from.
            device: the compute capability of the GPU that is to run the engine, such as "8.9"; None: not asked.
            product_version: of the TensorRT that is to run it; None: the one that is installed.
            every: hash all files; else the engine only, where there is one.
        """
        found = fitness.sizes(self.files, FILES, Path(folder))
        if self.engine is not None:
            found += self.engine.mismatches(device, product_version)
        known = {mismatch.what for mismatch in found}
        names = [name for name in self.files if (every or name == ENGINE) and name not in known]
        return found + fitness.hashes(self.files, names, Path(folder))

    def check_still(self, folder: str | Path, before: Sequence[Stamp] | None = None) -> None:
        """Fail where a folder was written to meanwhile: then what was read from it may be of two conversions.

        Args:
            folder: that the manifest was read from.
            before: its `stamps`, from before its files were checked; None: the manifest alone is compared.

        Raises:
            ManifestError: it was, or it is gone.
        """
        if Manifest.read(folder) != self or (before is not None and self.stamps(folder) != before):
            raise ManifestError("the folder was replaced while it was read", where=str(folder), fix="read it again")

    def stamps(self, folder: str | Path) -> list[Stamp]:
        """What tells whether its files change; those that are not there have none."""
        return [stamp(path) for name in self.files if (path := Path(folder) / name).is_file()]

    def damage(self, folder: str | Path) -> list[Mismatch]:
        """What of the files does not fit, wherever the engine runs. All are read, unless their sizes tell already."""
        found = fitness.sizes(self.files, FILES, Path(folder))
        return found or fitness.hashes(self.files, self.files, Path(folder))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> installed version; "" where it is not."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def gpu_name() -> str:
    """The name of PyTorch's current GPU; "" where it sees none."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def _engine(report: Report, backend: Backend) -> Engine:
    title = library.TITLES[backend.product]
    return Engine(
        backend.product,
        title,
        backend.title.removeprefix(title).strip(),
        backend.typing,
        tuple(report.targets),
        tuple(report.bindings),
        {node.plan.name: node.verdict for node in report.nodes if node.verdict},
        "" if backend.capabilities.targets else gpu_name(),
    )


def _plain(data: Any) -> Any:
    """Data as it is read back: tuples are lists."""
    return json.loads(json.dumps(data))


_ENGINE = {
    "product": re.compile("|".join(library.MODULES)),
    **dict.fromkeys(("title", "version", "typing", "device", "platform"), str),
    "compute_capabilities": [str],
    "bindings": [BINDING],
    "verdicts": {"nodes": Each(str)},
    "version_compatible": bool,
}
SCHEMA: dict[str, Any] = {
    "format": int,
    "made_by": Each(str),
    "source": {"name": str, "sha256": (None, SHA256)},
    "files": Each({"sha256": SHA256, "bytes": int}, r"\w[\w.-]*"),  # a name alone: no way leads out of the folder
    "graph": SHA256,
    "plan": {"sha256": SHA256, "counts": Each(int)},
    "asked": Each(object),
    "options": Each(object),
    "engine": (None, _ENGINE),
    "signature": (None, Each(object)),
}
"""The form of a manifest: keys that must be there, and the types of their values."""

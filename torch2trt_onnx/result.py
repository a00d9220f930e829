"""The result of a conversion: its files, and what is told of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import onnx

from torch2trt_onnx import inspection, stages
from torch2trt_onnx.cache import take
from torch2trt_onnx.errors import ConversionWarning, OutputError
from torch2trt_onnx.files import dumped, replace_atomically
from torch2trt_onnx.manifest import ENGINE, FILES, ONNX, Manifest
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.report import Report
from torch2trt_onnx.signature import Signature
from torch2trt_onnx.stages import Recorder
from torch2trt_onnx.weights import WeightStore

if TYPE_CHECKING:
    from torch2trt_onnx.runtime import EngineModule

INLINE_LIMIT = 2**31 - 2**20
"""Bytes of weights above which an ONNX file has them beside it: protobuf's limit, less the graph."""


class Conversion:
    """The result of `convert`. Its files lie in a temporary folder that goes with it; `save` keeps them.

    Args:
        report: what was planned, proven and compared.
        onnx_path, engine_path: its files.
        signature: what the source model takes and returns.
        product: of the TensorRT that built the engine.
        manifest: of it, which knows no files yet.
        stages: those that were kept; None of a conversion that was made before.
    """

    def __init__(
        self,
        report: Report,
        onnx_path: Path,
        engine_path: Path | None,
        *,
        signature: Signature | None = None,
        product: str = "",
        manifest: Manifest,
        stages: Recorder | None = None,
    ) -> None:
        self.report, self.signature, self._manifest = report, signature, manifest
        self._stages = stages or Recorder(None)
        self._onnx_path, self._engine_path, self._product = onnx_path, engine_path, product
        self._runner: Callable[..., Any] | None = None
        self._lock = threading.Lock()
        self._cleanup = weakref.finalize(self, _remove, onnx_path.parent, os.getpid())

    @property
    def plan(self) -> PrecisionPlan:
        """Which precision each node runs in, and why."""
        return self.report.plan

    @property
    def onnx(self) -> onnx.ModelProto:
        """The final graph, with its weights inside: read anew from the disk each time."""
        return onnx.load(self._there(self._onnx_path))

    @property
    def engine(self) -> bytes:
        """The serialized engine; empty with backend="none". Read anew from the disk each time."""
        return self._there(self._engine_path).read_bytes() if self._engine_path is not None else b""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on tensors of PyTorch, as the source model is called: the engine, where this machine has a GPU and a TensorRT for it, else
        the final graph in ONNX Runtime on the CPU. The first such call says so, in a `ConversionWarning`.

        Raises:
            InputError: an argument is not as the engine takes it; see `runtime.Engine`.
            EngineError: TensorRT or ONNX Runtime refuses to run.
        """
        with self._lock:  # threads that call it first would write one and the same file for ONNX Runtime
            if self._runner is None:
                from torch2trt_onnx.runtime import fallback

                path = self._there(self._onnx_path)
                self._runner, why = fallback.choose(self.engine, self._product, path, self.signature)
                if why:
                    text = f"ONNX Runtime on the CPU computes the results of this conversion, not TensorRT: {why}"
                    warnings.warn(text, ConversionWarning, stacklevel=2)
        return self._runner(*args, **kwargs)

    def module(self) -> EngineModule:
        """The conversion as an nn.Module, for places that want one."""
        from torch2trt_onnx.runtime import EngineModule

        return EngineModule(self)

    def save(self, directory: str | Path) -> Path:
        """Write `model.onnx` (from 2 GB on with `model.onnx.data`), `model.engine`, `report.json` and `manifest.json`, and where they were
        kept, the stages to `stages/`; each file whole or not at all.

        Raises:
            OutputError: the folder cannot be made or written, or the disk is full; files that were there before are as they were.
        """
        directory = Path(directory)
        self._there(self._onnx_path)
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            earlier = stages.names(directory / stages.FOLDER)
            with replace_atomically(directory) as fresh:
                store = WeightStore.opened(self._onnx_path.parent)
                if (data := self._onnx_path.with_name("model.onnx.data")).is_file():
                    store.path = data  # of a loaded conversion
                model = onnx.load(self._onnx_path, load_external_data=False)
                store.save(model, fresh / "model.onnx", inline_below=INLINE_LIMIT)
                if self._engine_path is not None:
                    shutil.copyfile(self._engine_path, fresh / ENGINE)
                self._stages.write(fresh / stages.FOLDER)
                (fresh / "report.json").write_text(dumped(self.report.to_json()))
                manifest = self._manifest.with_files(fresh)
                manifest.write(fresh)
            for name in FILES:  # of an earlier conversion: an engine beside another graph is nobody's
                if name not in manifest.files and not (directory / name).is_dir():
                    (directory / name).unlink(missing_ok=True)
            stages.clear(directory / stages.FOLDER, earlier, self._stages.files())
        return directory

    @classmethod
    def load(cls, directory: str | Path, *, device: str | None = None) -> Conversion:
        """A conversion that `save` wrote, once its manifest has held: files, hashes, TensorRT's version, and the GPU where one is given.
        Its stages stay behind.

        Args:
            directory: the folder; it is not needed afterwards.
            device: the compute capability that the engine is to run on, such as "8.9"; None: not asked.

        Raises:
            ManifestError: the folder has no manifest, or one that cannot be read.
            EngineMismatchError: it names everything that does not fit.
        """
        directory = Path(directory)
        manifest = Manifest.read(directory)
        before = manifest.stamps(directory)
        manifest.check(directory, device=device, every=True)
        with workspace() as folder, disk_errors(folder):
            take(directory, folder)
            manifest.check_still(directory, before)
            found = cls.taken(manifest, folder)
        warn(found.report)
        return found

    @classmethod
    def taken(cls, manifest: Manifest, folder: Path, name: str | None = None) -> Conversion:
        """A conversion whose files were taken from a saved folder.

        Args:
            manifest: of that.
            folder: where the files are now. It goes with the conversion.
            name: of the model, where it has another now.
        """
        report = inspection.read(folder)
        report.stages = []
        if name is not None:
            report.source, manifest = name, replace(manifest, source={**manifest.source, "name": name})
        signature = Signature.from_json(manifest.signature) if manifest.signature is not None else None
        path, product = (folder / ENGINE, manifest.engine.product) if manifest.engine is not None else (None, "")
        return cls(report, folder / ONNX, path, signature=signature, product=product, manifest=manifest)

    def rename(self, name: str) -> None:
        """Call its model otherwise, in the report and the manifest."""
        self.report.source = name
        self._manifest = replace(self._manifest, source={**self._manifest.source, "name": name})

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Conversion owns a temporary folder, and cannot be pickled or copied: save it, and load it with Conversion.load"
        )

    @staticmethod
    def _there(path: Path) -> Path:
        """A file of this conversion.

        Raises:
            OutputError: something has removed it.
        """
        if not path.is_file():
            raise OutputError(
                "the files of this conversion are gone",
                where=str(path.parent),
                why="something has emptied the folder for temporary files",
                fix="convert again, and save at once; TMPDIR moves the folder",
            )
        return path


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, unless this process is a fork of its owner, who may still need it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def warn(report: Report, stacklevel: int = 3) -> None:
    """Warn of everything that the user must hear of, in the name of whoever called the caller of this."""
    for note in report.warnings:
        warnings.warn(note, ConversionWarning, stacklevel)


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder, which a `Conversion` takes over where the block ends well, and which is removed where it does not."""
    folder = Path(tempfile.mkdtemp(prefix="torch2trt_onnx-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """What the operating system says of a file as an error of ours."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            "a file could not be written or read",
            where=str(error.filename or where),
            why=error.strerror or str(error),
            fix="free space (the temporary folder needs about 3 times the weights; TMPDIR moves it), or choose another folder",
        ) from error

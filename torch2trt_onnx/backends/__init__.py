"""From the final ONNX graph to an engine. Only this folder and the runtime import TensorRT, and this one in a child process.

A back end is a product and a way of typing. What they do differently is a class in a file of its own, which runs in the child: `weak`,
`strong`, `rtx`; see `session`.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch2trt_onnx.backends import exchange, inspector, library, worker
from torch2trt_onnx.backends.exchange import BuildResult, Progress, Request
from torch2trt_onnx.backends.job import Job
from torch2trt_onnx.backends.layers import Binding, EngineLayer
from torch2trt_onnx.backends.library import Capabilities
from torch2trt_onnx.errors import BackendError, BackendMissingError, WorkerError
from torch2trt_onnx.options import Options

WORKER = "torch2trt_onnx.backends.build_worker"


@dataclass(frozen=True)
class Backend:
    """One behaviour of one TensorRT.

    Args:
        name: what the user calls it.
        product: see `library.MODULES`.
        typing: "strong": the types of the graph are those of the network; "weak": precisions are wishes of layers.
    """

    name: str
    product: str
    typing: str

    @property
    def title(self) -> str:
        """Product and version."""
        return f"{library.TITLES[self.product]} {probed(self.product)['version']}".strip()

    @property
    def capabilities(self) -> Capabilities:
        """What its library can do, asked of its module in a child process."""
        return Capabilities(**probed(self.product)["capabilities"])

    def missing(self) -> str:
        """Why it cannot be used here; "" where it can."""
        if not library.is_installed(self.product):
            return f"the module {library.MODULES[self.product]} is not installed"
        problem = str(probed(self.product)["problem"])
        if problem:
            return problem
        can = self.capabilities
        if not (can.weak if self.typing == "weak" else can.strong):
            return f"{self.title} has no {self.typing} typing"
        return ""

    def targets(self, options: Options) -> tuple[str, ...]:
        """The compute capabilities that an engine is built for; empty where that is not known."""
        return options.compute_capabilities if self.capabilities.targets else own_capability()

    def job(self, request: Request, options: Options, folder: Path) -> Job:
        """What to build, in TensorRT's words.

        Raises:
            InputError: an input or output has no such format, or the inputs have different numbers of profiles.
        """
        return exchange.job(request, self.product, self.typing, self.targets(options), self.title, options.tf32, folder)

    def build(self, job: Job, options: Options, folder: Path, progress: Progress | None) -> BuildResult:
        """Parse and build, in a child process.

        Args:
            job: what to build.
            options: the limits.
            folder: for temporary files.
            progress: told of how far it is.

        Raises:
            BackendError: it said no, crashed, or ran over a limit; or the engine's inputs and outputs are not what was asked for.
        """
        told = worker.run(
            WORKER,
            job.to_json(),
            folder,
            model_name=Path(job.model).name,
            timeout=options.timeout,
            memory_limit=options.memory_limit,
            on_progress=progress,
        )
        return exchange.result(told, job, self.title)


def own_capability() -> tuple[str, ...]:
    """The compute capability of PyTorch's current GPU, as "8.9"; empty where it sees none."""
    import torch

    if not torch.cuda.is_available():
        return ()
    major, minor = torch.cuda.get_device_capability()
    return (f"{major}.{minor}",)


BACKENDS = {
    "tensorrt-strong": Backend("tensorrt-strong", "tensorrt", "strong"),
    "tensorrt-weak": Backend("tensorrt-weak", "tensorrt", "weak"),
    "rtx": Backend("rtx", "rtx", "strong"),
}
NAMES = ("rtx", "tensorrt", *(name for name in BACKENDS if name != "rtx"), "none")
"""What `convert(backend=)` takes. "tensorrt" is the strongly typed one where the library has it, because there types are guaranteed."""


def find_backend(name: str | None) -> Backend | None:
    """The back end of a name; None for "none"; the first that can be used here where no name is given.

    Raises:
        BackendMissingError: it is unknown, or cannot be used here; it says of each what is missing.
    """
    if name == "none":
        return None
    if name is not None and name not in NAMES:
        raise BackendMissingError(f"there is no back end {name!r}", fix=f"use one of {', '.join(NAMES)}")
    chosen = [b for b in BACKENDS.values() if name is None or name in (b.name, b.product)]
    reasons = {backend: backend.missing() for backend in chosen}
    for backend, reason in reasons.items():
        if not reason:
            return backend
    raise BackendMissingError(
        "no TensorRT can be used here" if name is None else f"the back end {name!r} cannot be used here",
        why="; ".join(dict.fromkeys(f"{b.name}: {reason}" for b, reason in reasons.items())),
        fix="pip install 'torch2trt_onnx[rtx]' (builds without a GPU), or stop at the ONNX file with backend='none'",
    )


@functools.cache
def probed(product: str) -> dict[str, Any]:
    """What the library of a product says of itself, from a child process: it may crash where it finds no driver.

    Asked twice, where the first child fails: on a machine that is short of memory the system may have ended it.
    """
    problem = ""
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="torch2trt_onnx-") as folder:
            try:
                return worker.run(
                    WORKER, {"product": product}, Path(folder), model_name="its start", timeout=120, memory_limit=None
                )
            except WorkerError as error:
                problem = ": ".join(filter(None, (error.what, error.why)))
    return {"version": library.version(product), "capabilities": {}, "problem": problem}


@dataclass(frozen=True)
class LoadedEngine:
    """What an engine tells of itself where it is loaded.

    Args:
        backend: the product and version that loaded it.
        layers: its kernels.
        bindings: its inputs and outputs.
    """

    backend: str
    layers: list[EngineLayer]
    bindings: list[Binding]


def load_engine(path: Path) -> LoadedEngine:
    """Load an engine with the first product that can, in a child process, and ask it.

    Raises:
        BackendError: none can: an engine is for one version and one GPU.
        InspectionError: it was built without details of its layers.
    """
    problems = {}
    for product, title in library.TITLES.items():
        if not library.is_installed(product):
            problems[title] = "not installed"
            continue
        job = {"product": product, "engine": str(path.absolute())}
        with tempfile.TemporaryDirectory(prefix="torch2trt_onnx-") as folder:
            try:
                told = worker.run(WORKER, job, Path(folder), model_name=path.name, timeout=600, memory_limit=None)
            except WorkerError as error:
                problems[title] = ": ".join(filter(None, (error.what, error.why)))
                continue
        if told["engine"] is not None:
            layers, _ = inspector.parse(told["engine"]["layers"])
            bindings = [Binding.from_json(row) for row in told["engine"]["bindings"]]
            return LoadedEngine(f"{title} {told['version']}", layers, bindings)
        problems[title] = told["problem"].split("\n[checkMacros", maxsplit=1)[0].strip()
    raise BackendError(
        "the engine cannot be read here",
        where=str(path),
        why="; ".join(f"{title}: {problem}" for title, problem in problems.items()),
        fix="read it on the GPU and with the version that it was built for; or the folder that `convert -o` wrote, which needs neither",
    )


__all__ = [
    "BACKENDS",
    "NAMES",
    "Backend",
    "BuildResult",
    "Job",
    "LoadedEngine",
    "Progress",
    "Request",
    "find_backend",
    "load_engine",
    "own_capability",
]

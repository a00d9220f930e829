"""Models of `OnnxParser` and `ParserError`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx

from .binding import Model, Module
from .importer import Importer, RefusedError
from .network import Network, Tensor
from .operators import LACKS, LAYERS
from .values import Log


class ParserError(Model):
    """What the parser says of a node."""

    cls = "ParserError"

    def __init__(self, module: Module, refused: RefusedError, index: int) -> None:
        self.module, self.refused, self.index = module, refused, index

    def code(self) -> Any:
        """The kind of the error."""
        known = self.module.names["ErrorCode"].__members__
        return known.get(self.refused.code, known["UNSUPPORTED_NODE"])

    def desc(self) -> str:
        """The text."""
        return str(self.refused)

    def node(self) -> int:
        """The index of the node; -1 where it is of none."""
        return self.index

    def node_name(self) -> str:
        """The node's name."""
        return self.refused.node.name if self.refused.node is not None else ""

    def node_operator(self) -> str:
        """Its operator."""
        return self.refused.node.op_type if self.refused.node is not None else ""

    def file(self) -> str:
        """Of the parser's source."""
        return "ModelImporter.cpp"

    def func(self) -> str:
        """Of the parser's source."""
        return "parseNode"

    def line(self) -> int:
        """Of the parser's source."""
        return 0

    def local_function_stack(self) -> list[str]:
        """The functions around the node."""
        return []

    def local_function_stack_size(self) -> int:
        """How many."""
        return 0

    def __str__(self) -> str:
        return f"In node {self.index} with name: {self.node_name()} and operator: {self.node_operator()}: {self.desc()}"

    __repr__ = __str__


class OnnxParser(Model):
    """The parser."""

    def __init__(self, module: Module, _shell: Any, network: Network, logger: Any) -> None:
        self.module, self.network, self.log = module, network, Log(module, logger)
        self.errors: list[ParserError] = []
        self.made: dict[str, list[Tensor | None]] = {}
        self.flags = 0

    @property
    def num_errors(self) -> int:
        """How many."""
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        """One of them."""
        return self.errors[index]

    def clear_errors(self) -> None:
        """Forget them."""
        self.errors.clear()

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self.flags >> int(flag) & 1)

    def supports_operator(self, op_name: str) -> bool:
        """Whether there is an importer of an operator."""
        return op_name in LAYERS and op_name not in LACKS.get(self.module.version.number[:2], ())

    def parse_from_file(self, model: str) -> bool:
        """Parse a file, external data beside it."""
        try:
            read = onnx.load(model)
        except Exception as error:
            return self._fail(
                RefusedError(f"Failed to parse ONNX model from file: {model}! ({error})", "MODEL_DESERIALIZE_FAILED")
            )
        return self._parse(read)

    def parse(self, model: memoryview, path: str | None) -> bool:
        """Parse bytes; `path` is where they come from, for external data."""
        try:
            read = onnx.load_model_from_string(bytes(model))
            if path:
                onnx.load_external_data_for_model(read, os.fspath(Path(path).parent))
        except Exception as error:
            return self._fail(RefusedError(f"Failed to parse ONNX model ({error})", "MODEL_DESERIALIZE_FAILED"))
        return self._parse(read)

    def get_layer_output_tensor(self, name: str, i: int) -> Tensor | None:
        """The tensor of an output of an ONNX node; None where the name is unknown."""
        found = self.made.get(name, [])
        return found[i] if 0 <= i < len(found) else None

    def _parse(self, model: onnx.ModelProto) -> bool:
        if self.network.has_implicit_batch_dimension:
            return self._fail(
                RefusedError(
                    "This version of the ONNX parser only supports networks with an explicit batch dimension",
                    "INVALID_GRAPH",
                )
            )
        importing = Importer(self.module, self.network, self.log, model)
        try:
            importing.run()
        except RefusedError as refused:
            return self._fail(refused, importing.index)
        self.made = importing.made
        return True

    def _fail(self, refused: RefusedError, index: int = -1) -> bool:
        self.errors.append(ParserError(self.module, refused, index))
        self.log.error(str(self.errors[-1]))
        return False

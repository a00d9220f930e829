"""The passes, in order, and what happens around each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch2trt_onnx.errors import ConversionError, GraphError, PassError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes import (
    AnnotatePrecision,
    BindInputs,
    BindOutputs,
    Change,
    DemoteDouble,
    DropNoopCasts,
    FoldConstants,
    FoldWeightCasts,
    GuardRecurrentCasts,
    InlineIfs,
    JoinLayerNorm,
    LiftConstants,
    MatchPyTorch,
    MergeCasts,
    NarrowIntegers,
    Pass,
    RepairBFloat16,
    RepairNormalization,
    Retype,
)
from torch2trt_onnx.plan import AUTO
from torch2trt_onnx.rules import Rule


@dataclass(frozen=True)
class PassRecord:
    """What one pass did, and how long it took in seconds."""

    name: str
    seconds: float
    changes: tuple[Change, ...] = field(repr=False)


Step = Pass | tuple[Pass, ...]
"""A pass, or several that are repeated until none of them finds anything to do."""


def passes(bindings: Mapping[str, int]) -> list[Step]:
    """All passes, for a plan that keeps what the source says: without a decision in between, `Retype` finds nothing to do."""
    return [*repairs(bindings), *lowering()]


def repairs(bindings: Mapping[str, int]) -> list[Step]:
    """The passes that make a graph say what its author meant; what each node is to run in is decided after them.

    Args:
        bindings: input name -> ONNX element type, where the user asked for one.
    """
    return [
        RepairBFloat16(),  # first: the types of everything behind such a Cast are wrong
        LiftConstants(),  # weights in Constant nodes become initializers, which the next ones look for
        DemoteDouble(),  # before anything is judged by its type
        BindInputs(bindings),
        RepairNormalization(),  # the last repair: from here on the graph is well-typed
        AnnotatePrecision(),  # before the Casts of weights are folded, which loses the type that the author gave them
    ]


def joins(policy: str, rules: Sequence[Rule] = ()) -> list[Step]:
    """The passes that write several nodes as one that TensorRT serves better; only where nobody said what each of them is to run in.

    Args:
        policy: who decides; see `planning.policy`.
        rules: of the user, for single nodes.
    """
    if policy != AUTO:
        return []
    return [
        JoinLayerNorm(rules),  # before ranges are measured: those of its squares are then no matter
        AnnotatePrecision(),  # the new nodes
    ]


def lowering(
    fidelity: str = "tensorrt", outputs: Mapping[str, int] | None = None, *, has_int64: bool = True
) -> list[Step]:
    """The passes that do what was decided, and clean up.

    Args:
        fidelity: see `plan.Asked`.
        outputs: output name -> ONNX element type, where the user asked for one.
        has_int64: whether the TensorRT that it is for has int64.
    """
    match: list[Step] = [MatchPyTorch()] if fidelity == "pytorch" else []
    narrow: list[Step] = [] if has_int64 else [NarrowIntegers(outputs or {})]
    return [
        Retype(),  # before the clean-up, which folds the Casts that it puts at weights, and drops those that it makes pointless
        *match,  # after Retype, which decides what is fp16; before the clean-up, which folds its Casts of weights too
        *narrow,
        BindOutputs(
            outputs or {}
        ),  # after the plan, which has no say in bindings; before the clean-up, which merges its Casts
        (  # what the branch of an If makes known may decide the next If, and its Casts meet those around it
            LiftConstants(),
            FoldWeightCasts(),
            MergeCasts(),  # before DropNoopCasts: fp16 -> fp32 -> fp16 becomes a no-op here
            DropNoopCasts(),
            FoldConstants(),  # makes the conditions of Ifs known
            InlineIfs(),
        ),
        GuardRecurrentCasts(),  # last: it looks for the Casts that stay
    ]


def run(
    graph: Graph,
    todo: Sequence[Step],
    observe: Callable[[Graph, PassRecord], None] = lambda *_: None,
    *,
    is_typed: bool = False,
) -> list[PassRecord]:
    """Run passes on a graph, in place: each on a tidy graph with all types known, and check what it leaves.

    Args:
        graph: with unique node names.
        todo: the passes.
        observe: called with the graph after each of them.
        is_typed: whether the types are known already, because nothing was edited since an earlier run.

    Raises:
        GraphError: the graph is ill-typed once the repairs are done.
        PassError: a pass failed, or left an ill-typed graph.
    """
    if not is_typed:
        graph.tidy()
        graph.infer_types(strict=False)
    records: list[PassRecord] = []
    was_well_typed = False
    for step in _unrolled(todo, records):
        start = time.perf_counter()
        before = ", ".join(record.name for record in records) or "none"
        try:
            changes = tuple(step.apply(graph))
            if changes:
                graph.tidy()
                if not step.keeps_types:
                    graph.infer_types(strict=False)
            if step.leaves_well_typed and (changes or not was_well_typed):
                check(graph)
                was_well_typed = True
        except ConversionError as error:
            if not was_well_typed:
                raise
            raise PassError(
                f"the pass {step.name} left an invalid graph",
                why=str(error),
                where=f"after the passes {before}",
                fix=REPORT,
            ) from error
        except Exception as error:
            raise PassError(
                f"the pass {step.name} failed",
                why=f"{type(error).__name__}: {error}",
                where=f"after the passes {before}",
                fix=REPORT,
            ) from error
        records.append(PassRecord(step.name, time.perf_counter() - start, changes))
        observe(graph, records[-1])
    return records


def _unrolled(todo: Sequence[Step], records: Sequence[PassRecord]) -> Iterator[Pass]:
    """The passes one by one, as long as the records of those that are repeated show changes."""
    for step in todo:
        group = step if isinstance(step, tuple) else (step,)
        yield from group
        while len(group) > 1 and any(record.changes for record in records[-len(group) :]):
            yield from group


REPORT = "this is a bug of torch2trt_onnx: please report it, with the ONNX file of --backend none if you may"


def check(graph: Graph) -> None:
    """Fail where the graph is ill-typed.

    Raises:
        GraphError: naming every such node, its tensors and their types.
    """
    problems = graph.type_problems()
    if problems:
        raise GraphError(
            f"the graph is ill-typed at {len(problems)} node{'s' * (len(problems) > 1)}",
            why="\n       ".join(map(str, problems)),
            fix="cast one of the tensors in the model, or convert its layers to one type",
        )

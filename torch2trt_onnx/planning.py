"""Deciding which precision each node is to run in, from what the author says, what the user asks, and what operators can.

The graph's types stay as they are here: the decision goes into the metadata of the nodes, and `Retype` does it. The rules are those of
`casting_semantics.md`: layer casting, tensor casting, policies, strict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import BOUND_KEY, PREFIX, Graph, Tie, subgraphs, ties
from torch2trt_onnx.losses import Losses, constants_of
from torch2trt_onnx.passes.retype import CARRIED_KEY
from torch2trt_onnx.placement import (
    BF16,
    FP16,
    FP32,
    MONOTONE,
    MOVING,
    Choice,
    Sketch,
    inner_first,
    is_embedding,
    place,
)
from torch2trt_onnx.plan import ASKED_KEY, AUTO, COMPILER, KEPT, SOURCE, Asked
from torch2trt_onnx.precision import FLOATS, ElementType, Precision, is_lossless, label
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.safety import BOUNDED, CalibratedRange, Evidence, OverBudget, Safety
from torch2trt_onnx.typecheck import NO_PRECISION, compute_type, onnx_type, retyping
from torch2trt_onnx.work import MATRIX

ADDING = frozenset({"add", "mul"})
"""Values of the attribute `reduction` with which ScatterElements and ScatterND compute."""

GAPS = {
    ("ConvTranspose", BF16): "TensorRT cannot infer the type of a bf16 ConvTranspose",
    ("MaxPool", BF16): "TensorRT runs a bf16 MaxPool in fp32",
    ("AveragePool", BF16): "TensorRT runs a bf16 AveragePool in fp32",
    ("Mish", BF16): "TensorRT refuses a bf16 Mish",
    ("HardSwish", BF16): "TensorRT refuses a bf16 HardSwish",
    ("LpNormalization", BF16): "TensorRT refuses a bf16 LpNormalization",
}
"""What TensorRT does not run in a type, whatever ONNX says, and runs in fp32 (measured on TensorRT-RTX 1.7.1.116)."""

CAPABILITY = {Precision.BF16: (8, 0), Precision.FP8: (8, 9)}
"""The first compute capability that has a precision; older ones refuse the whole network."""


def policy(graph: Graph, asked: Asked, *, weak: bool = False) -> str:
    """Who decides on what the author did not: "source" (nobody), "auto" (`safety`), or "compiler" (a weakly typed TensorRT).

    Args:
        graph: repaired.
        asked: what the user wants.
        weak: whether it is for a weakly typed TensorRT, which can choose by itself.
    """
    if asked.policy is not None:
        return asked.policy
    wanted = asked.precisions or frozenset()
    if Precision.FP32 not in wanted or _lowest(wanted) is None or _has_signal(graph):
        return SOURCE
    return COMPILER if weak and not asked.strict else AUTO


def decide(
    graph: Graph,
    asked: Asked,
    shapes: Mapping[str, Sequence[int | None]],
    targets: Sequence[str],
    *,
    policy: str = SOURCE,
    evidence: Evidence | None = None,
) -> list[str]:
    """Write the plan into the graph.

    Args:
        graph: annotated; see `AnnotatePrecision`.
        asked: what the user wants.
        shapes: of the dynamic inputs, by name: Casts are placed where they are cheapest at these.
        targets: the compute capabilities to build for, such as "8.9".
        policy: see there.
        evidence: what was measured.

    Returns:
        Warnings.

    Raises:
        PrecisionError: what is asked for contradicts the source, the operators or a device; it names every node.
    """
    _refuse_contradictions(asked)
    graph.metadata[ASKED_KEY] = json.dumps(asked.to_json())
    planner = _Planner(graph, asked, policy, evidence or Evidence())
    planner.choose()
    place(planner.sketch, planner.fits, shapes)
    planner.write()
    return [*planner.notes, *_check_result(planner.sketch.choices, asked, targets, policy)]


def _has_signal(graph: Graph) -> bool:
    """Whether something in the model has another floating-point type than fp32: its author has chosen."""
    nodes = (node for node in graph.nodes() if BOUND_KEY not in node.metadata)
    kinds = (onnx_type(t) for node in nodes for t in (*node.inputs, *node.outputs))
    return any(kind != FP32 and kind in FLOATS for kind in kinds)


def _lowest(wanted: Iterable[Precision]) -> int | None:
    """The type that `auto` lowers to; fp16 before bf16, which has three bits less. None where no reduced one is asked for."""
    return next((kind for kind in (FP16, BF16) if Precision.of(kind) in wanted), None)


def movable(graph: Graph) -> set[str]:
    """The names of the nodes that were lowered without the author's or a rule's word, and that fp32 is open to."""
    lowered = (AUTO, "narrowed")
    return {node.name for node in graph.nodes() if node.metadata.get(f"{PREFIX}origin") in lowered}


def left(graph: Graph) -> list[str]:
    """The precisions that some node is led from or to: what the source rounds to there, and what the plan does, whatever follows."""
    about = [(n.metadata.get(f"{PREFIX}authored"), n.metadata.get(f"{PREFIX}precision")) for n in graph.nodes()]
    return sorted(
        {word for given, planned in about if given and planned and given != planned for word in (given, planned)}
    )


def matches(graph: Graph, rules: Sequence[Rule]) -> list[list[gs.Node]]:
    """For each rule the nodes that it matches, whether or not a later rule wins."""
    found: list[list[gs.Node]] = [[] for _ in rules]
    for node in graph.nodes():
        if not compute_type(node):
            continue
        module, tensors = node.metadata.get(f"{PREFIX}module", ""), [t.name for t in node.outputs]
        for rule, nodes in zip(rules, found, strict=True):
            if rule.matches(node.name, module, node.op, tensors):
                nodes.append(node)
    return found


def _refuse_contradictions(asked: Asked) -> None:
    if asked.policy == AUTO and _lowest(asked.precisions or ()) is None:
        raise PrecisionError(
            f"policy='auto' chooses nodes for a reduced precision, and none was asked for ({asked.words})",
            fix="add fp16 or bf16 to precisions",
        )
    if asked.policy == AUTO and asked.strict and Precision.FP32 not in (asked.precisions or ()):
        raise PrecisionError(
            "When strict is True, the precisions are exact, and policy='auto' needs fp32 for what is not safe in another",
            fix="add fp32 to precisions, or leave policy out: then all is narrowed",
        )
    outside = [
        f"rule {number} ({rule})"
        for number, rule in enumerate(asked.rules, 1)
        if asked.precisions is not None
        and rule.precision not in asked.precisions
        and (asked.strict or rule.precision is not Precision.FP32)
    ]
    if outside:
        raise PrecisionError(
            "rules ask for precisions that are not asked for",
            why="; ".join(outside),
            fix="add them to precisions, or change the rules",
        )


@dataclass
class _Planner:
    """One decision: `choose` takes node by node, and `write` puts down what came of it, once `place` has seen to what is free."""

    graph: Graph
    asked: Asked
    policy: str = SOURCE
    evidence: Evidence = field(default_factory=Evidence)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = self.asked.precisions
        self.losses = Losses(self.graph)
        self.measured = {
            kind: [hazard(self.graph, kind, self.evidence, self.losses) for hazard in (OverBudget, CalibratedRange)]
            for kind in (FP16, BF16)
        }
        lowest = _lowest(wanted or ())
        self.safety = (
            Safety(self.graph, lowest, self.evidence, self.losses)
            if self.policy == AUTO and lowest is not None
            else None
        )
        self.enabled = None if wanted is None else {ElementType.of(p).onnx for p in wanted if not p.is_quantized}
        self.sketch = Sketch(self.graph, self.asked, self.enabled)
        foreign = (node for node in self.graph.nodes() if node.op not in NO_PRECISION and subgraphs(node))
        self._foreign = {id(inner) for node in foreign for body in subgraphs(node) for inner in inner_first(body)}

    # --- node by node

    def choose(self) -> None:
        """The wanted type of each node on its own; conflicts are gathered, so that the error names all."""
        told = self._rules()
        conflicts: list[str] = []
        islands: list[str] = []
        for node in self.graph.nodes():
            self.sketch.tied[id(node)] = [self._tie_choice(node, tie) for tie in ties(node)]
            self.sketch.choices += self.sketch.tied[id(node)]
            given = compute_type(node)
            if not given or node.op in NO_PRECISION:
                continue
            choice = self._choice(node, given, told.get(id(node)), conflicts, islands)
            choice.may_round |= self.asked.weightless == "free"
            self.sketch.choices.append(choice)
            self.sketch.of[id(node)] = choice
        if conflicts:
            raise PrecisionError(
                f"When strict is True, each node needs a precision that was asked for ({self.asked.words}); "
                f"{len(conflicts)} cannot have one",
                why="\n       ".join(conflicts),
                fix="add their precisions to those asked for, retype those layers in the model, or leave strict out",
            )
        if islands:
            counted = "1 node runs" if len(islands) == 1 else f"{len(islands)} nodes run"
            self.notes.append(f"{counted} in another precision than was asked: " + "; ".join(islands))

    def _rules(self) -> dict[int, tuple[int, int, str]]:
        """`id` of a node -> (type, number, text) of the last rule that matches it; dead rules are told of."""
        told: dict[int, tuple[int, int, str]] = {}
        for number, (rule, nodes) in enumerate(
            zip(self.asked.rules, matches(self.graph, self.asked.rules), strict=True), 1
        ):
            if not nodes:
                self.notes.append(f"rule {number} ({rule}) matches no node")
            for node in nodes:
                told[id(node)] = (ElementType.of(rule.precision).onnx, number, str(rule))
        return told

    def _choice(
        self, node: gs.Node, given: int, told: tuple[int, int, str] | None, conflicts: list[str], islands: list[str]
    ) -> Choice:
        said = node.metadata.get(f"{PREFIX}reason", "")
        origin = node.metadata.get(f"{PREFIX}origin", "tensors")
        where = f"{node.op} {node.name!r}"
        if self.safety is not None and given == FP32 and told is None and not self._is_pinned(node):
            return self._lowered(self.safety, node, origin, said)
        candidates, why_origin, why = self._candidates(node, given, told)
        if not candidates:
            conflicts.append(f"{where} is {label(given)}: {said}")
            return Choice(node, given, given, origin, said)
        obstacles = []
        for kind in candidates:
            obstacle = self._obstacle(node, kind) or (self._measured_obstacle(node, kind) if told is None else "")
            if not obstacle:
                break
            obstacles.append(f"not {label(kind)}: {obstacle}")
        else:
            if self.asked.strict:
                conflicts.append(f"{where}: {'; '.join(obstacles)}")
            kind = given if self._obstacle(node, given) is None else FP32
        if obstacles:
            why_origin, why = "operator", "; ".join(obstacles)
            islands.append(f"{where} is {label(kind)} ({why})")
        elif kind == given and why_origin == "narrowed":
            islands.append(f"{where} is {label(kind)} (no other floating-point precision was asked for)")
        removed = node.op == "Cast" and given == FP32 and why_origin == "narrowed"  # no rounding: free to be nothing
        free = told is None and (removed or self._is_free(node, origin))
        if kind == given and told is None and not obstacles:
            if self.policy == COMPILER and not self._is_pinned(node):
                return Choice(
                    node, given, kind, COMPILER, f"the model gives no signal: any of {self.asked.words}; {said}"
                )
            return Choice(node, given, kind, origin, said, free)
        return Choice(node, given, kind, why_origin, f"{why}; in the source it is {label(given)}: {said}", free)

    def _lowered(self, safety: Safety, node: gs.Node, origin: str, said: str) -> Choice:
        """An fp32 node under `policy="auto"`: in the reduced precision where nothing is against it."""
        if node.op == "Cast":
            return Choice(node, FP32, FP32, origin, said)
        rule, why = safety.why(node)  # first, because its reasons say more
        why = why or self._obstacle(node, safety.to) or ""
        if why:
            node.metadata[f"{PREFIX}kept_by"] = rule or "operator"
            return Choice(node, FP32, FP32, KEPT, f"{why}; {said}")
        free = origin == "tensors" and node.op not in BOUNDED and node.op not in MATRIX
        reason = f"nothing is against {label(safety.to)}; {said}"
        may_round = node.op not in MOVING | MONOTONE  # between two of fp32 it would round for nothing
        return Choice(node, FP32, safety.to, AUTO, reason, free, may_round=may_round)

    def _measured_obstacle(self, node: gs.Node, to: int) -> str:
        """Why what was measured keeps an fp32 node from being narrowed; "" where it does not, or fp32 is no way out."""
        if self.asked.strict or to not in self.measured or compute_type(node) != FP32 or node.op == "Cast":
            return ""
        return next(filter(None, (hazard.why(node) for hazard in self.measured[to])), "")

    def _candidates(self, node: gs.Node, given: int, told: tuple[int, int, str] | None) -> tuple[list[int], str, str]:
        """The types to try, in this order, where they come from, and why; none where nothing is allowed."""
        if told is not None:
            to, number, text = told
            return [to], "rule", f"rule {number}: {text}"
        if self._is_pinned(node) and given != FP32 and (self.enabled is None or FP32 in self.enabled):
            return [FP32], "policy", "weightless nodes are fp32"
        if self.enabled is None or given in self.enabled:
            # Where TensorRT has no such kernel, fp32 holds the same values.
            way_out = [FP32] if self.enabled is None or FP32 in self.enabled or not self.asked.strict else []
            return list(dict.fromkeys([given, *way_out])), "", ""
        is_fp32_cast = node.op == "Cast" and given == FP32
        if self.asked.strict and given != FP32 and not is_fp32_cast:
            return [], "", ""
        reduced = [kind for kind in (FP16, BF16) if kind in self.enabled]
        if is_fp32_cast:  # what comes from one of them loses nothing there, and may lose its range in the other
            reduced.sort(key=lambda kind: kind != onnx_type(node.inputs[0]))
        if given != FP32 and FP32 in self.enabled:
            return [FP32], "widened", f"{label(given)} was not asked for"
        order = reduced if self.asked.strict else [*reduced, FP32]
        origin = "narrowed" if given == FP32 else "widened"
        return order, origin, f"{label(given)} was not asked for"

    def _is_pinned(self, node: gs.Node) -> bool:
        """Whether a node without weights is to be fp32, as the user asked of them all."""
        weightless = node.metadata.get(f"{PREFIX}origin") == "tensors"
        return self.asked.weightless == "fp32" and weightless and node.op not in MOVING

    def _is_free(self, node: gs.Node, origin: str) -> bool:
        """Whether a node may take another type than its own where that is cheaper."""
        if (
            self.asked.weightless == "free"
            and origin == "tensors"
            and node.op not in ("QuantizeLinear", "DequantizeLinear")
        ):
            return True
        if self.asked.weightless == "fp32" and node.op in MONOTONE:
            return False
        if is_embedding(node):
            return False
        if node.op in ("ScatterElements", "ScatterND") and node.attrs.get("reduction", "none") in ADDING:
            return False
        return node.op in MOVING | MONOTONE

    def _tie_choice(self, node: gs.Node, tie: Tie) -> Choice:
        given = next((kind for t in tie.makes if (kind := onnx_type(t))), 0)
        to = given
        if given in FLOATS and self.enabled is not None and given not in self.enabled:
            order = [FP32] if FP32 in self.enabled and given != FP32 else [k for k in (FP16, BF16) if k in self.enabled]
            to = next(iter(order), given)
        return Choice(node, given, to, "tensors", "handed over", given in FLOATS, tie)

    def _obstacle(self, node: gs.Node, to: int) -> str | None:
        """Why a node cannot run in a type; None where it can."""
        if (node.op, to) in GAPS:
            return GAPS[node.op, to]
        given = compute_type(node)
        if to == given:
            return None
        if id(node) in self._foreign:
            return "it is in the body of an operator whose types are not known"
        if node.op == "Cast":
            return None
        types = retyping(node, to, self.graph.opset)
        if isinstance(types, str):
            return types
        if is_lossless(given, to) or (node.op in MOVING | MONOTONE and not is_embedding(node)):
            return None  # what only hands values on loses no more than what reads them
        return next(filter(None, (self._range_problem(c, to, node.op) for c in constants_of(node))), None)

    def _range_problem(self, constant: gs.Constant, to: int, op: str) -> str:
        """What an initializer loses that cannot be had back: values that become infinite, or all of them zero."""
        loss = self.losses.of(constant, to)
        harmless = not loss.infinite and self.asked.strict and op not in ("QuantizeLinear", "DequantizeLinear")
        fatal = (loss.infinite or loss.zero) and not harmless
        return f"{constant.name!r}: {loss.words(label(to))}" if fatal else ""

    def fits(self, choice: Choice, kind: int) -> bool:
        """Whether a free place may have a type at all."""
        if self.enabled is not None and kind not in self.enabled and (self.asked.strict or kind != FP32):
            return False
        return choice.tie is not None or self._obstacle(choice.node, kind) is None

    # --- putting it down

    def write(self) -> None:
        """Put the decision into the metadata of the nodes."""
        for choice in self.sketch.choices:
            if choice.tie is not None:
                continue
            about = choice.node.metadata
            about[f"{PREFIX}authored"] = label(choice.given)
            about[f"{PREFIX}precision"] = label(choice.to)
            about[f"{PREFIX}origin"], about[f"{PREFIX}reason"] = choice.origin, choice.reason
        for group in self.sketch.tied.values():
            if any(c.changed for c in group):
                group[0].node.metadata[CARRIED_KEY] = ",".join(str(c.to) for c in group)


def _check_result(choices: Sequence[Choice], asked: Asked, targets: Sequence[str], policy: str) -> list[str]:
    """Fail where nothing runs as asked, or a device lacks a precision; warnings of what was not asked for and stays."""
    runs: dict[Precision, list[gs.Node]] = defaultdict(list)
    for choice in choices:
        if choice.tie is None:
            runs[Precision.of(choice.to)].append(choice.node)
            quantized = choice.node.metadata.get(f"{PREFIX}quantized")
            if quantized:
                runs[Precision.of(quantized)].append(choice.node)
    lacking = [
        f"{target} has no {precision.value} (it begins with {'.'.join(map(str, first))}): {_names(runs[precision])}"
        for precision, first in CAPABILITY.items()
        for target in targets
        if runs.get(precision) and tuple(map(int, target.split("."))) < first
    ]
    if lacking:
        raise PrecisionError(
            f"Requested {', '.join(p.value for p in CAPABILITY if runs.get(p))}, but a compute capability does not support it",
            why="\n       ".join(lacking),
            fix="leave that compute capability out, or the precision",
        )
    if asked.precisions is None:
        return []
    reduced = asked.precisions - {Precision.FP32}
    if reduced and not reduced & set(runs) and not any(choice.origin == COMPILER for choice in choices):
        raise PrecisionError(
            f"{', '.join(sorted(p.value for p in reduced))} was asked for, and not one node of the model runs in it",
            why=_why_none(choices, policy),
            fix=_fix_none(asked, policy),
        )
    outside = {p: nodes for p, nodes in runs.items() if p.is_quantized and p not in asked.precisions}
    if outside and asked.strict:
        raise PrecisionError(
            "When strict is True, each node needs a precision that was asked for",
            why="\n       ".join(f"{p.value} by Q/DQ: {_names(nodes)}" for p, nodes in outside.items()),
            fix="add it to precisions",
        )
    return [
        f"{p.value} was not asked for, and stays, because the model is quantized: {_names(n)}"
        for p, n in outside.items()
    ]


def _why_none(choices: Sequence[Choice], policy: str) -> str:
    """Why no node runs in a reduced precision: what kept each from it, once for each reason."""
    if policy != AUTO:
        return "each node keeps what the source or a rule gives it, so this would be an fp32 engine"
    kept: dict[str, list[str]] = defaultdict(list)
    for choice in choices:
        if choice.origin in (KEPT, "rule"):
            kept[choice.reason.split("; ")[0]].append(choice.node.name)
    lines = [f"{names[0]!r}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}" for why, names in kept.items()]
    return "\n       ".join(lines[:10] or ["it has no node that computes with floats"])


def _fix_none(asked: Asked, policy: str) -> str:
    if policy == AUTO:
        return "allow a larger max_error, or say by rules what you know to be safe"
    chosen = "leave policy='source' out" if asked.policy == SOURCE else "use policy='auto'"
    return (
        "cast layers in the model (layer.half(), torch.autocast), write rules, or leave fp32 out of precisions to narrow it all; "
        f"or {chosen}, and the nodes are chosen for you"
    )


def _names(nodes: Iterable[gs.Node]) -> str:
    return ", ".join(f"{node.op} {node.name!r}" for node in nodes)

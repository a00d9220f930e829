"""What we claim of our conversion beside its peers, each claim with the models that break it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from outcomes import AUTOCAST, ORT, OURS, OURS_RANDOM, OURS_UNMEASURED, RANDOM, RIGHT, SOURCE, TITLES, Outcome, Results

LIMIT = 2.5, 300e6
"""Of the peak memory: so many times the model's file, and so many bytes."""
RIVALS = AUTOCAST, ORT
"""Those with which each model is compared; AutoCast with the inputs that we have too."""


@dataclass
class Claim:
    """One claim.

    Args:
        text: what is claimed.
        broken: what breaks it, a model or a number each; empty where it holds.
        compared: of how many.
    """

    text: str
    broken: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def verdict(self) -> str:
        """In a word."""
        return "not measured" if not self.compared else "fails" if self.broken else "holds"


def claims(results: Results) -> list[Claim]:
    """All of them."""
    return [
        _valid(results),
        _right(results),
        _fast(results, OURS, AUTOCAST, 5),
        _fast(results, OURS_UNMEASURED, RANDOM, 10),
        _lean(results),
        _no_worse(results, "activation bytes of the engine at most the better peer's", "engine", "bytes", "{:.0f}"),
        _no_worse(results, "kernels of the engine at most the better peer's", "engine", "kernels", "{:.0f}"),
        _no_worse(
            results, "kernels over a range of shapes at most the better peer's", "engine", "over_range", "{:.0f}"
        ),
        _share(results),
        _error(results),
        _detectors(results),
    ]


def allowed(source: Outcome) -> float:
    """The bytes of memory that a conversion may take at most."""
    return LIMIT[0] * float(source.found["bytes"]) + LIMIT[1]


def _pairs(results: Results, tool: str) -> Iterator[tuple[str, Outcome, Outcome]]:
    """Each model with the source's outcome and a tool's."""
    sources, own = results.of(SOURCE), results.of(tool)
    return ((model, sources[model], own[model]) for model in own if model in sources)


def _valid(results: Results) -> Claim:
    claim = Claim(
        "valid (checker, ONNX Runtime, TensorRT-RTX) wherever the source is, with inputs, random numbers, and nothing"
    )
    for tool in (OURS, OURS_RANDOM, OURS_UNMEASURED):
        for model, source, own in _pairs(results, tool):
            claim.compared += 1
            said = {"conversion": own.failure} if own.failure else own.troubles
            claim.broken += [
                f"{model}, {TITLES[tool]}: {w}: {text}" for w, text in said.items() if w not in source.troubles
            ]
    return claim


def _right(results: Results) -> Claim:
    claim = Claim(f"right on every model: root mean square error below {RIGHT:.0%}")
    for model, _, own in _pairs(results, OURS):
        claim.compared += 1
        if not own.is_right:
            claim.broken.append(f"{model}: {own.rms:.2g}")
    return claim


def _fast(results: Results, tool: str, peer: str, factor: int) -> Claim:
    claim = Claim(
        f"median CPU seconds of {TITLES[tool]} at most 1/{factor} of those of {TITLES[peer]}, on what both convert"
    )
    own, theirs = results.of(tool), results.of(peer)
    both = [m for m in own if m in theirs and not own[m].failure and not theirs[m].failure]
    if both:
        mine, other = (statistics.median(found[m].cpu for m in both) for found in (own, theirs))
        whole = [statistics.median(found[m].seconds + found[m].imports for m in both) for found in (own, theirs)]
        claim.compared, claim.text = (
            len(both),
            f"{claim.text} (by the clock, imports included: 1/{whole[1] / whole[0]:.1f})",
        )
        if mine * factor > other:
            claim.broken.append(f"{mine:.2f} s and {other:.2f} s: 1/{other / mine:.1f}")
    return claim


def _lean(results: Results) -> Claim:
    claim = Claim(f"peak memory at most {LIMIT[0]} x the model's file + {LIMIT[1] / 1e6:.0f} MB")
    for tool in (OURS, OURS_RANDOM, OURS_UNMEASURED):
        for model, source, own in _pairs(results, tool):
            if own.failure:
                continue
            claim.compared += 1
            if own.peak > allowed(source):
                claim.broken.append(f"{model}, {TITLES[tool]}: {own.peak / 1e6:.0f} MB of {allowed(source) / 1e6:.0f}")
    return claim


def _rivals(results: Results) -> Iterator[tuple[str, Outcome, list[Outcome]]]:
    """Each model that we convert, with the outcomes of those peers that are right and lower anything."""
    for model, own in results.of(OURS).items():
        found = [results.get(tool, model) for tool in RIVALS]
        right = [o for o in found if o is not None and not o.failure and o.is_right and o.fact("graph", "share")]
        if not own.failure and right:
            yield model, own, right


def _no_worse(results: Results, text: str, part: str, name: str, form: str) -> Claim:
    """That a number is at most the smallest of the right peers."""
    claim = Claim(f"{text}, of those that are right")
    for model, own, right in _rivals(results):
        mine, theirs = own.fact(part, name), [v for o in right if (v := o.fact(part, name)) is not None]
        if mine is None or not theirs:
            continue
        claim.compared += 1
        if mine > min(theirs):
            claim.broken.append(f"{model}: {form.format(mine)}, {form.format(min(theirs))}")
    return claim


def _share(results: Results) -> Claim:
    claim = Claim("share of matrix work in fp16 at least the better peer's, of those that are right")
    for model, own, right in _rivals(results):
        mine, theirs = own.fact("graph", "share") or 0.0, [o.fact("graph", "share") or 0.0 for o in right]
        claim.compared += 1
        if mine < max(theirs) - 1e-6:
            claim.broken.append(f"{model}: {mine:.1%}, {max(theirs):.1%}")
    return claim


def _error(results: Results) -> Claim:
    claim = Claim("mean error at most that of each peer that is right, but for the noise over the inputs")
    for model, own, right in _rivals(results):
        if not own.errors:
            continue
        claim.compared += 1
        mine, best = statistics.mean(own.errors), min(right, key=lambda o: statistics.mean(o.errors))
        theirs, noise = statistics.mean(best.errors), max(own.noise, best.noise)
        if mine > theirs + noise:
            claim.broken.append(f"{model}: {mine:.2g}, {theirs:.2g}, noise {noise:.2g}")
    return claim


def _detectors(results: Results) -> Claim:
    claim = Claim(
        "PP-OCR's detectors within 1% of AutoCast's root mean square error, and the nodes that stay in fp32 named"
    )
    for model, own in results.of(OURS).items():
        peer = results.get(AUTOCAST, model)
        if not model.startswith("ocr_det") or peer is None or peer.failure:
            continue
        claim.compared += 1
        if own.failure or own.rms > peer.rms + 0.01:
            claim.broken.append(f"{model}: {own.failure or f'{own.rms:.2g}'}, {peer.rms:.2g}")
        elif own.fact("graph", "fp32") and not (own.found["convert"].get("result") or {}).get("kept"):
            claim.broken.append(f"{model}: no node is named")
    return claim

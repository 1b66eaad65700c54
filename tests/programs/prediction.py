"""How many convolutions, norms and additions have to be left of a program, knowing nothing of fxrep."""

from __future__ import annotations

from tests.programs.description import (
    NORMS,
    PASSING,
    Leaf,
    Program,
    Sum,
    Tree,
    leaves,
    nodes,
)


def predict(program: Program) -> dict[str, int]:
    """How many convolutions, norms and additions of tensors have to be left, by the algebra alone.

    All branches of a source with a convolution among them become one convolution, and what scales them goes into it.
    An identity of a source that has no convolution stays as it is, its own norm too. A norm behind a sum goes into
    the convolutions, if all terms of the sum are convolutions.
    """
    used = [program.branches[i] for i in leaves(program.tree)]
    convolved = {b.source for b in used if b.conv}
    alone = [b for b in used if b.source not in convolved]
    kept = [step for b in alone for step in b.steps]
    merging = any(sum(b.source == source for b in used) > 1 for source in convolved)
    scaled = any(step not in PASSING for _, n in nodes(program.tree) if isinstance(n, Sum) for step in n.steps)
    adds = len(convolved) + len(alone) - 1
    if alone and isinstance(program.tree, Sum):
        kept += program.tree.steps
    if not merging and (alone or not scaled):  # then the sum itself is left as it is written
        adds = sum(_additions(n) for _, n in nodes(program.tree))
    return {
        "conv": len(convolved),
        "norm": sum(step in NORMS and step != "hand-written norm" for step in kept),
        "add": adds
        + sum({"hand-written norm": 2}.get(s, "channels" in s and s[:2] in ("+c", "-c", ".a")) for s in kept),
    }


def _additions(node: Tree) -> int:
    if isinstance(node, Leaf) or "stack" in node.spelling:
        return 0
    return sum(not (isinstance(n, Leaf) and n.branch < 0) for n in node.operands) - 1

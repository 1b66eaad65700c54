"""Where a region's convolutions go in a flat graph, and what their weights are called.

No module has a forward to keep, so the convolution takes the place of the last operator of the region; what only hands
its value on stays behind it. A convolution that is merged with what follows it keeps the names of its weights; branches
that join are called after the module around them all: ``stage.block.merged.weight``.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import fx

from ..convmap import ConvMap
from .placement import Placement, computed_at, first_of, join_of
from .regions import Region


def place_flat(regions: list[Region]) -> tuple[list[list[Placement]], dict[Region, str]]:
    """A placement for each region, alone; and the regions that have none."""
    placed = {region: _placement(region) for region in regions}
    refused = {region: "an operator that is in its way cannot stay" for region, at in placed.items() if at is None}
    return [[at] for at in placed.values() if at is not None], refused


def _placement(region: Region) -> Placement | None:
    site, after = region.root, list[fx.Node]()
    while not region.linear[site].kind and region.linear[site].operands[0] in region.interior:
        after.append(site)
        (site,) = region.linear[site].operands
    places: list[tuple[fx.Node, list[fx.Node]]] = [(site, after), join_of(region), join_of(region, convolves=True)]
    places += [(region.root, []), *([first] if (first := first_of(region)) else [])]
    return next(filter(None, (computed_at(region, *place) for place in places)), None)


def flat_names(placement: Placement, taken: set[str], known: dict[str, list[str | None]]) -> list[str | None]:
    """The path that holds the weights of each of the region's convolutions; adds them to what is ``taken``.

    A region that does the same with the same weights as one that is ``known`` shares its merged weights.
    """
    region = placement.region
    does = _description(region)
    if does in known:
        return known[does]
    merged = [isinstance(term.map, ConvMap) for term in region.form.terms]
    own = _own_path(region) if sum(merged) == 1 else None
    owners = [path.split(".")[:-1] for path in _weights(region)]
    around = [steps[0] for steps in itertools.takewhile(lambda steps: len({*steps}) == 1, zip(*owners, strict=False))]
    base = ".".join([*around, "merged"])
    names: list[str | None] = []
    for conv in merged:
        found = (f"{base}_{i}" if i else base for i in range(len(taken) + 1))
        name = own or next(n for n in found if n not in taken)
        names.append(name if conv else None)
        taken.update([name] if conv else [])
    known[does] = names
    return names


def _description(region: Region) -> str:
    """The same for regions of the same operators on the same weights, whatever they read."""
    inside = {node: i for i, node in enumerate(region.nodes)}
    sources: dict[fx.Node, int] = {}

    def text(node: fx.Node) -> str:
        if node in inside:
            return f"value {inside[node]}"
        if node.op == "get_attr":
            return str(node.target)
        if region.program.constant(node) is not None:
            return operator(node)
        return f"source {sources.setdefault(node, len(sources))}"

    def operator(node: fx.Node) -> str:
        arguments: Any = fx.map_arg((node.args, dict(node.kwargs)), text)  # type: ignore[arg-type, return-value, unused-ignore]
        return f"{node.op} {node.target} {arguments}"

    return "; ".join(map(operator, region.nodes))


def _weights(region: Region) -> list[str]:
    """The paths of the tensors and modules that a region reads."""
    read = (n for node in region.nodes for n in (node, *node.all_input_nodes))
    return [str(n.target) for n in read if n.op in ("get_attr", "call_module")]


def _own_path(region: Region) -> str | None:
    """Where the weights of the region's only convolution are, if nothing else reads anything there."""
    convolutions = [n for n in region.nodes if region.linear[n].convolves]
    if len(convolutions) != 1:
        return None
    (conv,) = convolutions
    weight = conv.args[1] if len(conv.args) > 1 else conv.kwargs.get("weight")
    path = str(conv.target) if conv.op == "call_module" else ""
    if isinstance(weight, fx.Node) and weight.op == "get_attr" and str(weight.target).endswith(".weight"):
        path = str(weight.target).removesuffix(".weight")
    if not path:
        return None
    for node in region.program.nodes:
        if node.op == "call_module" and node.target == path and node is not conv:
            return None
        if node.op == "get_attr" and str(node.target).startswith(f"{path}.") and not set(region.nodes) >= {*node.users}:
            return None
    return path

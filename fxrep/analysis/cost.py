"""What a computation costs, and when adding two maps up pays.

The model counts, per output position, multiply-accumulates and the activation elements that an operator reads and
writes; one element moved is taken to cost as much as ``ELEMENT`` multiply-accumulates. It is a roofline with one
number in it: a memory-bound operator (an add, a norm, a depthwise conv) pays for its traffic, a dense conv for its
arithmetic. Weights are not counted: how much they matter depends on the image size, which the pass need not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..convmap import ConvMap

ELEMENT = 16

PolicyName = Literal["default", "macs", "kernels"]


@dataclass(frozen=True)
class Cost:
    """Per output position: multiply-accumulates, elements moved, kernels launched."""

    macs: int = 0
    elements: int = 0
    kernels: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.elements + other.elements, self.kernels + other.kernels)

    def at(self, positions: int) -> Cost:
        """The cost where there are ``positions`` of these for one of the output's."""
        return Cost(self.macs * positions, self.elements * positions, self.kernels)

    @property
    def time(self) -> int:
        return self.macs + ELEMENT * self.elements


def of_conv(conv: ConvMap) -> Cost:
    return Cost(conv.macs, conv.traffic, 1)


def of_add(channels: int) -> Cost:
    return Cost(0, 3 * channels, 1)


def of_join(channels: int) -> Cost:
    return Cost(0, 2 * channels, 1)


def of_scale(channels: int) -> Cost:
    return Cost(channels, 2 * channels, 1)


Policy = Callable[[Cost], tuple[int, int]]

POLICIES: dict[str, Policy] = {
    "default": lambda cost: (cost.time, cost.kernels),
    "macs": lambda cost: (cost.macs, cost.kernels),
    "kernels": lambda cost: (cost.kernels, cost.time),
}


def policy_named(name: str) -> Policy:
    """What to compare two ways of computing the same by: the smaller wins, and of two alike the merged one.

    ``"default"``: it is estimated to take no longer; ``"macs"``: it has no more multiply-accumulates; ``"kernels"``:
    it launches no more kernels, whatever they cost.

    Raises:
        ValueError: there is no such policy.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; choose one of {', '.join(map(repr, get_args(PolicyName)))}")
    return POLICIES[name]

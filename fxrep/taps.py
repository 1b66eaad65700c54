"""Taps: the positions that a kernel reads along one axis."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Taps:
    """The positions ``first, first + step, ..., last`` (``count`` of them) that a kernel reads along one axis.

    >>> Taps(-1, 1, 3) | Taps(0, 1, 1)          # a padded 3-tap kernel and a 1-tap kernel
    Taps(first=-1, step=1, count=3)
    >>> Taps(-2, 2, 3) | Taps(-3, 3, 3)         # dilations 2 and 3 meet on a grid of step 1
    Taps(first=-3, step=1, count=7)
    """

    first: int
    step: int
    count: int

    @property
    def last(self) -> int:
        return self.first + self.step * (self.count - 1)

    def __or__(self, other: Taps) -> Taps:
        if self == other:
            return self
        first, last = min(self.first, other.first), max(self.last, other.last)
        step = math.gcd(*(t.step for t in (self, other) if t.count > 1), self.first - other.first)
        return Taps(first, step, (last - first) // step + 1) if step else Taps(first, 1, 1)

    def then(self, outer: Taps, stride: int) -> Taps:
        """The taps ``stride * t2 + t1`` of a kernel with taps ``outer`` that reads what these taps gave.

        >>> Taps(-1, 1, 3).then(Taps(-1, 1, 3), stride=2)
        Taps(first=-3, step=1, count=7)
        """
        first, last = (stride * t2 + t1 for t1, t2 in ((self.first, outer.first), (self.last, outer.last)))
        steps = [*([self.step] if self.count > 1 else []), *([stride * outer.step] if outer.count > 1 else [])]
        step = math.gcd(*steps) or 1
        return Taps(first, step, (last - first) // step + 1)

    @property
    def positions(self) -> range:
        return range(self.first, self.last + 1, self.step)

    def within(self, whole: Taps) -> slice:
        """The slice of ``whole``'s positions at which these taps sit."""
        start = (self.first - whole.first) // whole.step
        stride = self.step // whole.step if self.count > 1 else 1
        return slice(start, start + stride * (self.count - 1) + 1, stride)

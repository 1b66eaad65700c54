"""What the user leaves to the pass: parts of the model by path, and what becomes of norms."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Paths = str | Sequence[str] | Callable[[str], bool]
Norms = Literal["fold", "keep"]


@dataclass
class Selection:
    """``only`` and ``skip`` are patterns of module paths, which stand for what is inside as well, or predicates.

    ``norms="keep"``: norms are folded only into branches that merge; the one behind the sum stays.
    """

    only: Paths | None = None
    skip: Paths | None = None
    norms: Norms = "fold"
    known: dict[str, str | None] = field(default_factory=dict)
    names: Mapping[str, Collection[str]] = field(default_factory=dict)

    def check(self, paths: Callable[[], Mapping[str, Collection[str]]]) -> None:
        """Raise for what cannot be meant: a pattern that fits no module, an unknown word.

        ``paths`` gives those of the model, and for each all paths to the same module.

        Raises:
            TypeError: a pattern is not a string.
            ValueError: no path of the model fits a pattern; or ``norms`` is unknown.
        """
        if self.norms not in get_args(Norms):
            raise ValueError(f"unknown norms={self.norms!r}; choose one of {', '.join(map(repr, get_args(Norms)))}")
        patterns = [(n, g) for n, g in (("only", self.only), ("skip", self.skip)) if g is not None and not callable(g)]
        self.names = paths() if self.restricts else {}
        for name, given in patterns:
            for pattern in [given] if isinstance(given, str) else given:
                if not isinstance(pattern, str):
                    raise TypeError(f"{name}= takes paths of modules or a predicate, not a {type(pattern).__name__}")
                if not any(path and fnmatch.fnmatchcase(path, pattern) for path in self.names):
                    raise ValueError(f"{name}={pattern!r} fits no module; see model.named_modules() for their paths")

    @property
    def restricts(self) -> bool:
        return self.only is not None or self.skip is not None

    def reason(self, path: str) -> str | None:
        """Why an operator in the module at ``path`` is left alone; None if it is not."""
        if path not in self.known:
            names = self.names.get(path, (path,))
            left_out = self.only is not None and not any(_fits(self.only, name) for name in names)
            skipped = self.skip is not None and any(_fits(self.skip, name) for name in names)
            self.known[path] = "only= leaves it out" if left_out else "skip= leaves it out" if skipped else None
        return self.known[path]


def _fits(given: Paths, path: str) -> bool:
    if callable(given):
        return any(given(outer) for outer in _outward(path))
    patterns = [given] if isinstance(given, str) else given
    return any(fnmatch.fnmatchcase(outer, pattern) for outer in _outward(path) for pattern in patterns)


def _outward(path: str) -> Iterator[str]:
    """A path and those of the modules around it, but for the model itself."""
    yield path
    while path := path.rpartition(".")[0]:
        yield path

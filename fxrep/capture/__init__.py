"""From an ``nn.Module`` to graphs, and from edited graphs back into the same module."""

from .checks import check_model
from .clone import owning_copy, structural_copy
from .observe import Observation
from .piece import Call, Piece
from .tracer import Tracer, capture, capture_whole

__all__ = [
    "Call", "Observation", "Piece", "Tracer", "capture", "capture_whole", "check_model", "owning_copy",
    "structural_copy",
]  # fmt: skip

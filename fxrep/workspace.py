"""Memory for large float64 tensors, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Memory for the largest float64 kernel of a region, used again for the next: fresh pages are slow."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.float64)

    def like(self, tensor: Tensor, device: torch.device) -> Tensor:
        if self.buffer.numel() < tensor.numel() or self.buffer.device != device:
            self.buffer = torch.empty(0, dtype=torch.float64)  # let go of the old one first
            self.buffer = torch.empty(tensor.numel(), dtype=torch.float64, device=device)
        return self.buffer[: tensor.numel()].view(tensor.shape)

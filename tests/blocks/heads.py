"""Linear layers: classifiers with a norm, two heads of a distilled model, low-rank adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NormLinear(nn.Sequential):
    """``linear(bn x)``."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.add_module("bn", nn.BatchNorm1d(features))
        self.add_module("l", nn.Linear(features, classes))


class DistilledClassifier(nn.Module):
    """``(head(x) + head_dist(x)) / 2`` behind the global pool, each head a norm and a linear layer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = NormLinear(features, classes)
        self.head_dist = NormLinear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x).flatten(1)
        x1, x2 = self.head(x), self.head_dist(x)
        return (x1 + x2) / 2


class LevitHead(nn.Module):
    """The same behind the mean of the tokens."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.head = NormLinear(features, classes)
        self.head_dist = NormLinear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        return (self.head(x) + self.head_dist(x)) / 2


class DistilledTokens(nn.Module):
    """DeiT: ``(head(class token) + head_dist(distillation token)) / 2``."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, classes)
        self.head_dist = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x, x_dist = x[:, 0], x[:, 1]
        return (self.head(x) + self.head_dist(x_dist)) / 2


class WeightedHeads(nn.Module):
    """EfficientViM: the heads of all stages, and those of distillation, weighted and added up from zeros on."""

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in features)
        self.heads_dist = nn.ModuleList(nn.Linear(width, classes) for width in features)
        self.weights = nn.Parameter(torch.randn(len(features)))
        self.weights_dist = nn.Parameter(torch.randn(len(features)))

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        weights, weights_dist = self.weights.softmax(-1), self.weights_dist.softmax(-1)
        z = torch.zeros((first.shape[0], self.classes), device=first.device)
        z_dist = torch.zeros((first.shape[0], self.classes), device=first.device)
        for i, stage in enumerate((first, second, third)):
            h = F.adaptive_avg_pool1d(stage.flatten(2), 1).flatten(1)
            z = z + weights[i] * self.heads[i](h)
            z_dist = z_dist + weights_dist[i] * self.heads_dist[i](h)
        return (z + z_dist) / 2


class LinearNorm(nn.Module):
    """LeViT: ``bn(linear x)`` on tokens, which are flattened for the norm."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.linear = nn.Linear(cin, cout, bias=False)
        self.bn = nn.BatchNorm1d(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class LoRAModules(nn.Module):
    """A low-rank adapter as two linear layers: ``w(x) + scaling b(a(dropout x))``, added in place."""

    def __init__(self, cin: int, cout: int, rank: int = 4, alpha: int = 8) -> None:
        super().__init__()
        self.base_layer = nn.Linear(cin, cout)
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.lora_a = nn.ModuleDict({"default": nn.Linear(cin, rank, bias=False)})
        self.lora_b = nn.ModuleDict({"default": nn.Linear(rank, cout, bias=False)})
        nn.init.zeros_(self.lora_b["default"].weight)
        self.scaling = {"default": alpha / rank}

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        for name in self.lora_a:
            dropped = self.lora_dropout[name](x)
            result = result + self.lora_b[name](self.lora_a[name](dropped)) * self.scaling[name]
        return result


class LoRALinear(nn.Linear):
    """A low-rank adapter as parameters of a linear layer: ``x W' + b + (x A') B' scaling``, by matrix products."""

    def __init__(self, cin: int, cout: int, rank: int = 4, alpha: int = 8) -> None:
        super().__init__(cin, cout)
        self.lora_a = nn.Parameter(torch.randn(rank, cin))
        self.lora_b = nn.Parameter(torch.zeros(cout, rank))
        self.lora_dropout = nn.Dropout(0.1)
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        result = F.linear(x, self.weight, bias=self.bias)
        adapted = self.lora_dropout(x) @ self.lora_a.transpose(0, 1) @ self.lora_b.transpose(0, 1)
        result += adapted * self.scaling
        return result


class LoRAConv(nn.Conv2d):
    """A low-rank adapter of a convolution, whose kernel is computed in forward."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, rank: int = 2, alpha: int = 4) -> None:
        super().__init__(cin, cout, kernel, padding=kernel // 2)
        self.lora_a = nn.Parameter(torch.randn(rank * kernel, cin * kernel))
        self.lora_b = nn.Parameter(torch.zeros(cout * kernel, rank * kernel))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        adapted = (self.lora_b @ self.lora_a).view(self.weight.shape) * self.scaling
        return self._conv_forward(x, self.weight + adapted, self.bias)

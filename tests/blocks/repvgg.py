"""RepVGG and its successors for quantization."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks.parts import SqueezeExcite, conv_norm
from tests.blocks.tutorials import OriginalRepVGGBlock


class RepVGGBlockSE(OriginalRepVGGBlock):
    """RepVGG-D2se: squeeze-and-excitation between the sum and the activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.se = SqueezeExcite(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.se(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out))


class RepVGGplusBlock(OriginalRepVGGBlock):
    """RepVGGplus: squeeze-and-excitation behind the activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.post_se = SqueezeExcite(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.post_se(super().forward(inputs))


class QARepVGGBlock(nn.Module):
    """V1: ``bn(bn3(conv3 x) + conv1 x + x)``: no norm but that of the 3x3, and one behind the sum."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, se: bool = False) -> None:
        super().__init__()
        same = cin == cout and stride == 1
        self.rbr_dense = conv_norm(cin, cout, 3, stride)
        self.rbr_1x1 = nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.rbr_identity = nn.Identity() if same else None
        self.se = SqueezeExcite(cout) if se else nn.Identity()
        self.bn = nn.BatchNorm2d(cout)

    def branches(self, x: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.rbr_dense(x) + self.rbr_1x1(x) + id_out

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.se(self.branches(x))))


class QARepVGGBlockV2(QARepVGGBlock):
    """V2: an average pool as a fourth branch."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(cin, cout, stride)
        self.rbr_avg = nn.AvgPool2d(3, stride, padding=1) if self.rbr_identity is not None else None

    def branches(self, x: Tensor) -> Tensor:
        avg_out = 0 if self.rbr_avg is None else self.rbr_avg(x)
        return super().branches(x) + avg_out

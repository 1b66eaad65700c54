"""A training loop that validates the weights which will be deployed, at the end of each epoch.

The merged model is a copy: training goes on with the branches.

Run: python examples/training_loop.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep


class RepVGGBlock(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout))
        self.conv1 = nn.Sequential(nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv3(x) + self.conv1(x))


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    """Noise with a bright square in one of four corners: which one?"""
    images, labels = torch.randn(size, 1, 16, 16), torch.randint(4, (size,))
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[0, row + 2 : row + 6, column + 2 : column + 6] += 1
    return images, labels


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).float().mean().item()


torch.manual_seed(0)
pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4))
model = nn.Sequential(RepVGGBlock(1, 16), RepVGGBlock(16, 16), pool)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
validation = batch(256)

for epoch in range(3):
    model.train()
    for images, labels in (batch() for _ in range(20)):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    model.eval()  # before the merge: the norms' running statistics go into the weights
    deploy = fxrep.reparameterize(model)
    check = fxrep.verify(model, deploy, (validation[0],))
    scores = [accuracy(each, *validation) for each in (model, deploy)]
    print("epoch {}: accuracy {:.3f}, merged {:.3f}; {}".format(epoch, *scores, check))

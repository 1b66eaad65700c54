"""fxrep as one pass of a larger torch.fx pipeline, between passes of your own.

Run: python examples/fx_pipeline.py
"""

import torch
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

import fxrep


class MergeBranches(PassBase):
    """``fxrep.reparameterize`` as a pass. It says whether it changed anything, so that a pipeline in steps ends."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        merged = fxrep.reparameterize(graph_module)
        return PassResult(merged, modified=bool(fxrep.report(merged).merged))


class DropDropout(PassBase):
    """A pass of your own: dropout does nothing in eval mode."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        found = [n for n in graph_module.graph.nodes if n.op == "call_module" and is_dropout(graph_module, n)]
        for node in found:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
        graph_module.delete_all_unused_submodules()
        return PassResult(graph_module, modified=bool(found))


def is_dropout(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(graph_module.get_submodule(str(node.target)), nn.Dropout)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.conv3(x)
        x += self.conv1(x)
        return self.dropout(x).relu()


model = nn.Sequential(Block(8), Block(8))
with torch.no_grad():
    for _ in range(3):  # stands in for training: gives the norms statistics
        model.train()(torch.randn(4, 8, 16, 16))
model.eval()

# fxrep.trace records ``x += ...`` as the write that it is; torch.fx.symbolic_trace makes an ordinary add of it.
graph_module = fxrep.trace(model)
pipeline = PassManager(
    passes=[MergeBranches(), DropDropout()],
    constraints=[this_before_that_pass_constraint(MergeBranches, DropDropout)],
    steps=3,
)
result = pipeline(graph_module)

print(result.graph_module.graph)
print("modified:", result.modified)
print(fxrep.verify(model, result.graph_module, (torch.randn(2, 8, 16, 16),)))

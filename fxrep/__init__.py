"""fxrep: merge the linear branches of trained convolutional networks into single convolutions.

>>> import fxrep
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()  # any model in eval mode
>>> deploy = fxrep.reparameterize(model)
>>> report = fxrep.report(deploy)  # print it: what was merged, what was not, and why
>>> [merge.operators for merge in report.merged]
[{'conv': 1, 'norm': 1}]
"""

from .analysis.cost import PolicyName
from .api import Verification, explain, reparameterize, report, trace, verify
from .load import load
from .report import Kept, Merged, Report

__version__ = "0.1.0"

__all__ = [
    "Kept",
    "Merged",
    "PolicyName",
    "Report",
    "Verification",
    "explain",
    "load",
    "reparameterize",
    "report",
    "trace",
    "verify",
]

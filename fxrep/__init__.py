"""fxrep: merge the linear branches of trained convolutional networks into single convolutions.

>>> import fxrep
>>> deploy = fxrep.reparameterize(model)        # any eval-mode model
>>> print(fxrep.report(deploy))                 # what was merged, what was not, and why
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

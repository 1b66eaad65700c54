"""``python -m fxrep.cli`` is the same as ``fxrep``."""

from . import main

main()

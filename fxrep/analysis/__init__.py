"""What can be merged: constants, aliases and writes, linear forms, the cover and its cost, placement."""

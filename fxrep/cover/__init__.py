"""The cover: which values stay, which regions become one convolution, where it goes, and what dies with it."""

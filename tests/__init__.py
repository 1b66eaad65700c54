"""Tests of fxrep; the helpers are imported as ``tests.helpers``, ``tests.blocks``, ``tests.counting``."""

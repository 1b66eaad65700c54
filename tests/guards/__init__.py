"""Mutation runs: each guard of the pass is taken out, and something has to notice."""

"""The published experiments, each with one command; see docs/experiments.md."""

"""Compares the speed of the guidance step with what PyTorch offers for it, and with a copy of the same bytes.

Run ``python -m bench`` from the repository root; docs/benchmarks.md says how it measures. The installed package does
not contain this folder.
"""

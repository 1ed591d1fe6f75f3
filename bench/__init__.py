"""Speed of the guidance step against what PyTorch offers for it, and against a copy of the same bytes.

``python -m bench`` from the repository root; docs/benchmarks.md says how it measures. Not part of the installed
package.
"""

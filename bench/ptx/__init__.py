"""Executes PTX on the CPU: every thread of some blocks of a grid, instruction by instruction, with every access checked.

It stands in `bench`, since `bench.counted` counts with it and the tests import it: the shipped package does not need it.
"""

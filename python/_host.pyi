"""The core as tests see it. A wrong name of an option raises ValueError; csrc/names.h has the names."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

_Matrix = NDArray[np.float64]
_Taps = tuple[NDArray[np.int32], NDArray[np.floating]]  # index and coefficient, [row][count]

class _Expansion(TypedDict):
    out: int
    folds: int
    lengths: list[int]
    chunks: list[tuple[int, int, int, list[tuple[int, int]]]]  # begin, orbits, offset, runs of (begin, count)
    coefficients: NDArray[np.floating]

_Transform = list[tuple[int, int, _Expansion]]  # in, out, matrix

class _Plan:
    """csrc/cpu/plan.h says what the packed fields mean."""

    @property
    def form(self) -> Literal["dense", "separable", "rank", "spectrum"]: ...
    @property
    def accumulators(self) -> int: ...
    @property
    def swapped(self) -> bool: ...
    @property
    def in_h(self) -> int: ...
    @property
    def in_w(self) -> int: ...
    @property
    def out_h(self) -> int: ...
    @property
    def out_w(self) -> int: ...
    @property
    def row(self) -> int: ...
    @property
    def pairs_h(self) -> int: ...
    @property
    def pairs_w(self) -> int: ...
    @property
    def lift_h(self) -> _Transform: ...
    @property
    def lifted(self) -> int: ...
    @property
    def w_taps(self) -> _Taps: ...
    @property
    def h_taps(self) -> _Taps: ...
    @property
    def folds_h(self) -> int: ...
    @property
    def folds_w(self) -> int: ...
    @property
    def spectrum_h(self) -> _Transform: ...
    @property
    def spectrum_w(self) -> _Transform: ...
    @property
    def groups(self) -> list[list[int]]: ...
    @property
    def bracket_h(self) -> _Taps: ...
    @property
    def bracket_w(self) -> _Taps: ...
    @property
    def lift_w(self) -> _Transform: ...
    @property
    def columns(self) -> list[tuple[int, int, int, int]]: ...  # from, to, count, factor
    @property
    def h(self) -> list[_Expansion]: ...
    @property
    def w(self) -> _Expansion: ...
    @property
    def multiply_adds(self) -> int: ...
    def describe(self) -> str: ...

def interpolation_matrix(n_from: int, n_to: int, interpolation: str = "bilinear") -> _Matrix: ...
def axis_factors(
    n_from: int, n_to: int, interpolation: str = "bilinear", rescale: bool = False
) -> tuple[_Matrix, _Matrix, _Matrix]: ...
def is_symmetric(matrix: _Matrix) -> bool: ...
def stored_entries(
    size: tuple[int, int], prev_size: tuple[int, int], prior: str = "dse", interpolation: str = "bilinear"
) -> int: ...
def prior_terms(
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    transposed: bool = False,
) -> list[tuple[_Matrix, _Matrix]]: ...
def dense_operator(
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    transposed: bool = False,
) -> _Matrix: ...
def plan(
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    transposed: bool = False,
    accumulators: int = 12,
    dtype: str = "float32",
) -> _Plan: ...

# ---- the CUDA kernels: their launch plan, and their source run on the host

_Engine = Literal["dense", "fma", "mma", "direct"]
_Place = tuple[int, int, int]  # address, batch stride, token stride
_Number = tuple[int, int, str, float]  # address or 0, stride, dtype, value

# csrc/cuda/tiles.h: engine, columns of a thread, the sides of the step that it is compiled for
cuda_tiles: tuple[tuple[_Engine, int, int, int], ...]

class CudaPlan:
    """csrc/cuda/launch_plan.h says what the fields mean."""

    @property
    def engine(self) -> _Engine: ...
    @property
    def thread_columns(self) -> int: ...
    @property
    def made_for(self) -> int: ...
    @property
    def column_warps(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def warps(self) -> int: ...
    @property
    def group_pairs(self) -> int: ...
    @property
    def splits(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def resident(self) -> int: ...
    @property
    def cycles(self) -> float: ...
    @property
    def arithmetic(self) -> float: ...
    @property
    def traffic(self) -> float: ...
    @property
    def latency(self) -> float: ...
    def with_blocks(self, blocks: int) -> CudaPlan: ...
    def describe(self) -> str: ...

class CudaCall:
    """A guided step as the launcher gets it. `strengths` are beta, cfg and prev_cfg."""

    def __init__(
        self,
        *,
        size: Sequence[int],
        prev_size: Sequence[int],
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
        transposed: bool = False,
        dtype: str = "float32",
        batch: int = 1,
        vocabulary: int = 1,
        current: Sequence[_Place] = (),
        previous: Sequence[_Place] = ((0, 0, 0),),
        out: _Place = (0, 0, 0),
        strengths: Sequence[_Number] = (),
        capability: int = 90,
        multiprocessors: int = 132,
    ) -> None: ...
    def candidates(self) -> list[CudaPlan]: ...
    def plan(self) -> CudaPlan: ...
    def plan_with(
        self,
        engine: _Engine,
        thread_columns: int = 2,
        column_warps: int = 1,
        warps: int = 4,
        group_pairs: int = 1,
        splits: int = 1,
        made_for: int = 0,
    ) -> CudaPlan: ...
    def run(self, plan: CudaPlan, reverse: bool = False) -> None: ...

def cuda_sample(
    *,
    logits: _Place,
    uniform: _Place,
    uniform_is_double: bool,
    scale: _Number,
    out: int,
    dtype: str,
    batch: int,
    tokens: int,
    vocabulary: int,
    top_k: _Number,
    top_p: _Number,
    reverse: bool = False,
) -> None: ...

class _CudaLaunch(TypedDict):
    """`argument` is the template argument of the kernel `function`; `coefficients` are to be uploaded."""

    function: str
    argument: str
    params: bytes
    blocks: int
    threads: int
    shared_bytes: int
    coefficients: bytes

def cuda_launch(call: CudaCall, plan: CudaPlan, coefficients_at: int) -> _CudaLaunch: ...
def cuda_sample_launch(
    *,
    logits: _Place,
    uniform: _Place,
    uniform_is_double: bool,
    scale: _Number,
    out: int,
    dtype: str,
    batch: int,
    tokens: int,
    vocabulary: int,
    top_k: _Number,
    top_p: _Number,
) -> _CudaLaunch: ...
def demangled(name: str) -> str: ...
def cuda_fault(fault: str, reverse: bool = False) -> list[float]: ...
def cuda_mma(a: Sequence[float], b: Sequence[float], depth: int) -> list[float]: ...
def cuda_round(x: float, dtype: str) -> tuple[int, float]: ...

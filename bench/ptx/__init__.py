"""Executes PTX on the CPU: all threads of some blocks of a grid, one instruction after the other, every access checked.

It lives in `bench`, because `bench.counted` counts with it and tests import it, and users of the package need neither.

    parse       text to kernels of basic blocks
    memory      state spaces as bytes that are allocated, writable, written; races in shared memory
    machine     the lanes of some blocks, their registers and operands
    arithmetic  choices  rounding        instructions of a thread
    access      warp  matrix  wgmma      loads, stores and copies; instructions of a warp, and of four
    defined     undecided                values that nobody wrote, and branches on them
    schedule    which threads go on
    cuda        triton  resources        what nvcc and Triton compile, and how it is launched
    case        steps                    a step, and some blocks of it, executed and counted
    counts      latency                  what blocks took, and what their warps waited for
    rates       model                    what cards can do, and the time that follows
    ranking                              how well a plan ranks its candidates, by these times
"""

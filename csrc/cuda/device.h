// What the kernels use of the machine. nvcc compiles these functions to instructions. For a plain C++ compiler the files
// of the same names in host/ define the same functions; there the threads of a block are fibers that run one after
// another between barriers (host/fibers.h). They check what a GPU would overlook or fault on: the alignment of vector
// accesses, the bounds of shared memory, the wait for asynchronous copies, and whether a warp is together at a warp
// instruction.
#pragma once

#include "device/arithmetic.h"
#include "device/base.h"
#include "device/global.h"
#include "device/shared.h"
#include "device/threads.h"
#include "device/warp.h"

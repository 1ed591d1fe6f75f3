// The launch interface of the CUDA kernels. It needs no torch and no CUDA header: what includes it compiles without a
// toolkit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../step.h"
#include "call.h"

namespace ssg::cuda {

// Why this device cannot be served, or null where it can. Asks the driver once per device.
const char* unavailable(int device);

// 10 * major + minor of its compute capability. Asks the driver once per device.
int capability(int device);

// What allocates coefficients on a device, for good; cudaMalloc unless this is called before the first use.
void allocate_with(void* (*allocate)(size_t bytes, int device));

// Enqueues the whole step on `stream`, a cudaStream_t of `device`, which must be the current device. Nothing is
// synchronised but for the first use of a key, whose factors are uploaded; that is allowed during stream capture too.
// Throws std::runtime_error with CUDA's own text.
void run(const StepKey& key, const GuidedCall& call, int device, void* stream);

// Enqueues sampling on `stream`, like `run`; nothing is uploaded.
void sample(const SampleCall& call, int device, void* stream);

// A text for people: how `run` would launch the step on a device of this kind.
std::string describe(const StepKey& key, const GuidedCall& call, int compute_capability, int multiprocessors);

}  // namespace ssg::cuda

// What the library exports beside the operators, for the module _C.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "step.h"

#define SSG_EXPORT __attribute__((visibility("default")))

namespace ssg::ops {

// The instruction set of the CPU kernel that runs here.
SSG_EXPORT const char* cpu_capability();

// How that kernel computes a step in float32, and its multiply-adds per vocabulary column. Throws std::invalid_argument
// for a wrong name and for impossible sizes.
struct CpuPlan {
  std::string description;
  int64_t multiply_adds;
};
SSG_EXPORT CpuPlan cpu_plan(Grid size, Grid prev_size, const char* prior, const char* interpolation);

// Why the CUDA kernels cannot serve the device, or null where they can.
SSG_EXPORT const char* cuda_unavailable(int32_t device);

// How the CUDA kernels would be launched for a step on a kind of device. Throws std::invalid_argument for a wrong name.
struct CudaPlanRequest {
  Grid size;
  Grid prev_size;
  const char* prior;
  const char* interpolation;
  const char* dtype;
  int64_t batch;
  int64_t vocabulary;
  int64_t sources;
  int capability;
  int multiprocessors;
};
SSG_EXPORT std::string cuda_plan(const CudaPlanRequest& request);

// The operators that have kernels here, as "operator.overload".
SSG_EXPORT std::vector<std::string> registered();

// From now on, calls that no kernel here serves go to Python, which has defined the operators `_fallback_*`. Before
// that, they are refused. So do calls on cards of these families, the major numbers of compute capabilities, where
// SSG_KERNELS_BACKEND does not ask for the kernels here.
SSG_EXPORT void hand_over_the_rest(const std::vector<int>& families);

}  // namespace ssg::ops

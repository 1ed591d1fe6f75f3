// Where a plan finds its compiled kernel.
#pragma once

#include "launch_plan.h"

namespace ssg::cuda {

// The __global__ function of a plan, for cudaLaunchKernel; its one argument is Params, TensorParams or
// DirectParams, by the plan's engine.
const void* kernel_of(Scalar scalar, int64_t sources, const LaunchPlan& plan);

}  // namespace ssg::cuda

// Where a plan finds its compiled kernel.
#pragma once

#include "launch_plan.h"

namespace ssg::cuda {

// The __global__ function of a plan, for cudaLaunchKernel; its one argument is Params, or DirectParams for
// Engine::direct.
const void* kernel_of(Scalar scalar, const LaunchPlan& plan);

}  // namespace ssg::cuda

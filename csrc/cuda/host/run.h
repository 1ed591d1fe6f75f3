// The kernels' own source, run block by block on the host.
#pragma once

#include "../launch_plan.h"
#include "fibers.h"

namespace ssg::cuda::host {

// Does the whole step on host memory as `plan` launches it. Throws what the shim finds wrong.
void run(const StepKey& key, const Step& step, const LaunchPlan& plan, Order order);

// The same for sampling.
void sample(const Sampling& sampling, Order order);

}  // namespace ssg::cuda::host

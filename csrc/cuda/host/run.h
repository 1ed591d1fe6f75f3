// The kernels' own source, run block by block on the host.
#pragma once

#include "../../step.h"
#include "../launch_plan.h"
#include "fibers.h"

namespace ssg::cuda::host {

// Does the whole step on host memory as `plan` launches it. Throws what the shim finds wrong.
void run(const Step& step, const GuidedCall& call, const LaunchPlan& plan, Order order);

// Does the whole sampling on host memory, likewise.
void sample(const SampleCall& call, Order order);

}  // namespace ssg::cuda::host

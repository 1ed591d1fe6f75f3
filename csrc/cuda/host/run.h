// Runs the source of the CUDA kernels on the host, block by block.
#pragma once

#include "../../step.h"
#include "../launch_plan.h"
#include "fibers.h"

namespace ssg::cuda::host {

// Computes the whole step in host memory, launched as `plan` says. Throws what the shim finds wrong.
void run(const Step& step, const GuidedCall& call, const LaunchPlan& plan, Order order);

// Draws all tokens in host memory. Throws what the shim finds wrong.
void sample(const SampleCall& call, Order order);

}  // namespace ssg::cuda::host

// How long a block takes that shares its multiprocessor with nobody: what its warps wait for. The constants are fitted
// to the executed kernels, as those of model.cpp are: bench/ptx/latency.py counts it, bench/ptx/ranking.py says how well.
#pragma once

#include "../step.h"
#include "dense_step.h"
#include "launch_plan.h"
#include "tensor_layout.h"

namespace ssg::cuda {

// Cycles of the first block on a multiprocessor, which finds coefficients in the second-level cache, and of those behind
// it, which find them in the first-level cache.
struct Latency {
  double first;
  double later;
};

Latency latency_of(const DenseStep& dense, const GuidedCall& call, const LaunchPlan& plan);
// Of the FMA engine.
Latency latency_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan);
// Of the MMA engine, with `items` strips in their splits, one after the other.
Latency latency_of(const TensorSizes& sizes, const TensorLayout& layout, const GuidedCall& call, const LaunchPlan& plan,
                   int parts, int64_t items);

}  // namespace ssg::cuda

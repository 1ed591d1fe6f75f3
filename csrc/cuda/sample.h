// Sampling without a sort. Logits become integer keys of the same order, on which two thresholds are found by radix
// selection: the k-th largest key, and where top-p ends. Weights are whole numbers, so their sums are exact in any
// order: threads may add in any order, and the result is the CPU kernel's.
#pragma once

#include <cstdint>

#include "sample_block.h"
#include "sample_few.h"

namespace ssg::cuda {

// One thread draws a row of up to this length. Its time grows with the square of the length.
constexpr int64_t kFewColumns = 8;
constexpr int kMostBinsLog = 11;

// How many threads draw a row, and whether its keys fit in the shared memory that every launch may use.
struct SamplePlan {
  int threads = 128;
  int64_t blocks = 1;
  int64_t shared_bytes = 0;  // 0 for a thread a row
  SampleParams params;
};
inline SamplePlan plan_sample(const SampleCall& call) {
  SamplePlan plan;
  plan.params.call = call;
  const int64_t rows = call.batch * call.tokens;
  if (call.vocabulary <= kFewColumns) {
    plan.blocks = (rows + plan.threads - 1) / plan.threads;
  } else {
    int warps = 1;
    while (warps < 16 && warps * 512 < call.vocabulary) warps *= 2;
    plan.threads = 32 * warps;
    plan.blocks = rows;
    int bins_log = 5;
    while (bins_log < kMostBinsLog && int64_t{1} << bins_log < call.vocabulary) ++bins_log;
    plan.shared_bytes = 8 * (2 * warps + 2) + (int64_t{8} << bins_log);
    plan.params.bins_log = bins_log;
    plan.params.staged = plan.shared_bytes + call.vocabulary * item_bytes(call.scalar) <= (48 << 10);
    if (plan.params.staged) plan.shared_bytes += (call.vocabulary * item_bytes(call.scalar) + 7) / 8 * 8;
  }
  plan.blocks = plan.blocks < (1 << 20) ? plan.blocks : 1 << 20;
  return plan;
}

}  // namespace ssg::cuda

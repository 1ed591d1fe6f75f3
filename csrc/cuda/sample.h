// Sampling without a sort: how a call is launched. Weights are whole numbers, so their sums are exact in any order:
// threads may add in any order, and the result is the CPU kernel's.
#pragma once

#include <cstdint>

#include "sample_block.h"
#include "sample_few.h"
#include "sample_long.h"

namespace ssg::cuda {

enum class SampleForm : int8_t { two, few, block, passes };  // see sample_few.h, sample_block.h, sample_long.h

constexpr int kFewColumns = 8;              // one thread draws a row of up to this length
constexpr int64_t kSharedBytes = 48 << 10;  // what every launch may use

struct SamplePlan {
  SampleForm form = SampleForm::two;
  int threads = 128;
  int64_t blocks = 1;
  int64_t shared_bytes = 0;
  SampleParams params;
};

// The histogram of a team, its partial sums in two turns, and what one thread tells all.
inline int32_t team_bytes(int warps) { return 8 * (Team::kBins * 32 * warps + 2 * warps + 4); }

inline SampleShared shared_of(Scalar scalar, int warps) {
  SampleShared shared;
  const int threads = 32 * warps;
  shared.count = team_bytes(warps);
  shared.found = shared.count + 16;
  shared.weights = shared.found + 32;
  shared.ranks = shared.weights + SampleShared::kFew * 8;
  shared.logits = shared.ranks + SampleShared::kFew * (item_bytes(scalar) == 8 ? 16 : 8);
  shared.list = shared.logits + threads * SampleShared::stride(static_cast<int>(item_bytes(scalar)));
  shared.bytes = shared.list + threads * SampleShared::kOwn * 2;
  return shared;
}

inline SamplePlan plan_sample(const SampleCall& call) {
  SamplePlan plan;
  plan.params = sample_params(call);
  const int64_t rows = plan.params.rows;
  if (call.vocabulary <= kFewColumns) {
    plan.form = call.vocabulary <= 2 ? SampleForm::two : SampleForm::few;
    plan.blocks = (rows + plan.threads - 1) / plan.threads;
  } else {
    int warps = 1;
    while (warps < 4 && warps * 1024 < call.vocabulary) warps *= 2;
    plan.form = SampleForm::block;
    plan.params.shared = shared_of(call.scalar, warps);
    plan.shared_bytes = plan.params.shared.bytes;
    if (warps * 1024 < call.vocabulary || plan.shared_bytes > kSharedBytes) {
      plan.form = SampleForm::passes;
      warps = 8;
      plan.shared_bytes = team_bytes(warps);
    }
    plan.threads = 32 * warps;
    plan.blocks = rows < (1 << 20) ? rows : 1 << 20;
  }
  return plan;
}

}  // namespace ssg::cuda

// Sampling without a sort: how a call is launched. Weights are whole numbers, so their sums are exact in any order:
// threads may add in any order, and the result is the CPU kernel's.
#pragma once

#include <cstdint>

#include "dispatch.h"
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

inline SamplePlan plan_sample(const SampleCall& call) {
  SamplePlan plan;
  plan.params = sample_params(call);
  const int64_t rows = plan.params.rows;
  if (call.vocabulary <= kFewColumns) {
    plan.form = call.vocabulary <= 2 ? SampleForm::two : SampleForm::few;
    plan.blocks = (rows + plan.threads - 1) / plan.threads;
    return plan;
  }
  plan.blocks = rows < (1 << 20) ? rows : 1 << 20;
  with_storage(call.scalar, [&](auto storage) {
    using Block = SampleBlock<decltype(storage)>;
    using Long = SampleLong<decltype(storage)>;
    if (call.vocabulary <= Block::kMost) {
      plan.form = SampleForm::block;
      plan.threads = 32;
      while (plan.threads * Block::kOwn < call.vocabulary) plan.threads *= 2;
      plan.shared_bytes = Block::shared_bytes(plan.threads);
      static_assert(sizeof(typename Block::Shared) + sizeof(typename Block::Value) * 128 * Block::kStride <=
                    kSharedBytes);
    } else {
      plan.form = SampleForm::passes;
      plan.threads = 256;
      plan.shared_bytes = sizeof(typename Long::Team::Shared);
    }
  });
  return plan;
}

}  // namespace ssg::cuda

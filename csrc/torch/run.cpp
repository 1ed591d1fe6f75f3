#include "run.h"

#include <torch/csrc/stable/ops.h>

namespace ssg::ops {

void fill(GuidedCall& call, int64_t sources, const Operand& logits, const Operand& prev_logits, const Operand& out) {
  call.scalar = *scalar_of(logits.dtype);
  call.sources = sources;
  call.batch = logits.size[0] / sources;
  call.vocabulary = logits.size[2];
  for (int64_t s = 0; s < sources; ++s) {
    call.current[s] = logits_at(logits, s * call.batch);
    call.previous[s] = logits_at(prev_logits, s * call.batch);
  }
  call.out = logits_at(out, 0);
}

void in_parallel(int64_t tasks, int64_t grain, cpu::Body body, const void* context) {
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

void run(const StepKey& key, const cpu::GuidedCall& call) {
  cpu::run(key, call, torch::stable::get_num_threads(), in_parallel);
}

#if defined(SSG_HAVE_CUDA)
void run(const StepKey& key, const cuda::GuidedCall& call, const Operand& logits) {
  on_current_stream(logits, [&](int32_t device, void* stream) { cuda::run(key, call, device, stream); });
}
#endif

}  // namespace ssg::ops

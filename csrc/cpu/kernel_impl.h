// The guidance kernel, compiled once per instruction set. Each translation unit includes it inside its own namespace
// with its own flags, so nothing here may have external linkage outside SSG_NAMESPACE.
//
// A task loads its coarse maps, merges and scales them and brings them to even/odd coordinates; they stay in cache. It
// contracts row pairs with the h factors into slots, and slots with the w factors into registers. The epilogue adds the
// logits of this scale.

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S>
void run_as(const Plan<T>& plan, const GuidedCall& call, const Split& split, int64_t begin, int64_t end) {
  if (call.current[0].data == nullptr) return Task<T, S, 0>(plan, call, split).run(begin, end);
  if (call.sources == 1) return Task<T, S, 1>(plan, call, split).run(begin, end);
  return Task<T, S, 2>(plan, call, split).run(begin, end);
}

void run_float(const Plan<float>& plan, const GuidedCall& call, const Split& split, int64_t begin, int64_t end) {
  switch (call.scalar) {
    case Scalar::float32: return run_as<float, float>(plan, call, split, begin, end);
    case Scalar::bfloat16: return run_as<float, BFloat16>(plan, call, split, begin, end);
    case Scalar::float16: return run_as<float, Float16>(plan, call, split, begin, end);
    default: break;
  }
}

void run_double(const Plan<double>& plan, const GuidedCall& call, const Split& split, int64_t begin, int64_t end) {
  run_as<double, double>(plan, call, split, begin, end);
}

int64_t sample_rows(const SampleCall& call, int64_t begin, int64_t end);  // in sample_impl.h

extern const Kernel kKernel;
const Kernel kKernel = {SSG_NAME,  kMaxRows,   Strip<float>::width, Strip<double>::width,
                        run_float, run_double, sample_rows};

}  // namespace ssg::cpu::SSG_NAMESPACE

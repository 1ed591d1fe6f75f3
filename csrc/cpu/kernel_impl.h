// The guidance kernel, compiled once per instruction set. Each translation unit includes it inside its own namespace
// with its own flags, so nothing here may have external linkage outside SSG_NAMESPACE.
//
// A task visits its strips one after the other, or a few at once. A visit loads the coarse maps, merges and scales them,
// and prepares them. Then it multiplies the map with the h factors for a group of rows, and each row's slots with the w
// factors. The epilogue adds the banded part and the logits of this scale.

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S>
void run_as(const Plan<T>& plan, const GuidedCall& call, const Split& split, Tasks& tasks, int64_t worker) {
  if (call.current[0].data == nullptr) return Task<T, S, 0>(plan, call, split).run(tasks, worker);
  if (call.sources == 1) return Task<T, S, 1>(plan, call, split).run(tasks, worker);
  return Task<T, S, 2>(plan, call, split).run(tasks, worker);
}

void run_float(const Plan<float>& plan, const GuidedCall& call, const Split& split, Tasks& tasks, int64_t worker) {
  switch (call.scalar) {
    case Scalar::float32: return run_as<float, float>(plan, call, split, tasks, worker);
    case Scalar::bfloat16: return run_as<float, BFloat16>(plan, call, split, tasks, worker);
    case Scalar::float16: return run_as<float, Float16>(plan, call, split, tasks, worker);
    default: break;
  }
}

void run_double(const Plan<double>& plan, const GuidedCall& call, const Split& split, Tasks& tasks, int64_t worker) {
  run_as<double, double>(plan, call, split, tasks, worker);
}

int64_t sample_rows(const SampleCall& call, int64_t begin, int64_t end);  // in sample_impl.h

extern const Kernel kKernel;
const Kernel kKernel = {SSG_NAME,  kAccumulators, Strip<float>::width, Strip<double>::width,
                        run_float, run_double,    sample_rows};

}  // namespace ssg::cpu::SSG_NAMESPACE

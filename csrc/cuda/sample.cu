// The entry points of the sampling kernels, and their launch.
#include <cuda_runtime.h>

#include "check.h"
#include "dispatch.h"
#include "kernel.h"
#include "sample.h"

namespace ssg::cuda {
namespace {

template <class S, int N>
__global__ void __launch_bounds__(128, 4) sample_few_kernel(const __grid_constant__ SampleParams params) {
  SampleFew<S, N>::run(params);
}

template <class S>
__global__ void __launch_bounds__(128, SampleBlock<S>::kResident)
    sample_block_kernel(const __grid_constant__ SampleParams params) {
  SampleBlock<S>::run(params);
}

template <class S>
__global__ void __launch_bounds__(256, 4) sample_long_kernel(const __grid_constant__ SampleParams params) {
  SampleLong<S>::run(params);
}

template <class S>
const void* function_of(SampleForm form) {
  switch (form) {
    case SampleForm::two: return reinterpret_cast<const void*>(&sample_few_kernel<S, 2>);
    case SampleForm::few: return reinterpret_cast<const void*>(&sample_few_kernel<S, kFewColumns>);
    case SampleForm::block: return reinterpret_cast<const void*>(&sample_block_kernel<S>);
    default: return reinterpret_cast<const void*>(&sample_long_kernel<S>);
  }
}

}  // namespace

void sample(const SampleCall& call, int device, void* stream) {
  if (call.batch == 0 || call.tokens == 0) return;
  if (const char* reason = unavailable(device)) throw std::runtime_error(reason);
  SamplePlan plan = plan_sample(call);
  const void* function = nullptr;
  with_storage(call.scalar, [&](auto storage) { function = function_of<decltype(storage)>(plan.form); });
  void* arguments[] = {&plan.params};
  check(cudaLaunchKernel(function, dim3(static_cast<unsigned>(plan.blocks)), dim3(static_cast<unsigned>(plan.threads)),
                         arguments, static_cast<size_t>(plan.shared_bytes), static_cast<cudaStream_t>(stream)),
        "launching the kernel");
}

}  // namespace ssg::cuda

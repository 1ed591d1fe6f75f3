// The entry points of the guidance kernels.
#include <cuda_runtime.h>

#include "direct.h"
#include "dispatch.h"
#include "guided.h"
#include "kernels.h"

namespace ssg::cuda {
namespace {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads_at_most, Kernel::blocks_at_once)
    guided_logits_kernel(const __grid_constant__ typename Kernel::Parameters params) {
  Kernel::run(params);
}

template <class S>
__global__ void __launch_bounds__(256, 2) guided_logits_direct_kernel(const __grid_constant__ DirectParams params) {
  run_direct<S, typename Storage<S>::Compute>(params);
}

}  // namespace

const void* kernel_of(Scalar scalar, int64_t sources, const LaunchPlan& plan) {
  const void* found = nullptr;
  with_storage(scalar, [&](auto storage) {
    using S = decltype(storage);
    if (plan.is_direct())
      found = reinterpret_cast<const void*>(&guided_logits_direct_kernel<S>);
    else
      with_kernel_of<S>(plan.tile, sources, [&](auto kernel) {
        found = reinterpret_cast<const void*>(&guided_logits_kernel<typename decltype(kernel)::Type>);
      });
  });
  return found;
}

}  // namespace ssg::cuda

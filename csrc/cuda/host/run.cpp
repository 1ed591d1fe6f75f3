#include "run.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../direct.h"
#include "../dispatch.h"
#include "../pack.h"
#include "../params.h"
#include "../sample.h"

namespace ssg::cuda::host {

void run(const Step& step, const GuidedCall& call, const LaunchPlan& plan, Order order) {
  with_storage(call.scalar, [&](auto storage) {
    using S = decltype(storage);
    using T = typename Storage<S>::Compute;
    const Packed<T> packed = pack<T>(step, plan);
    // Aligned as on the device.
    std::vector<Vec<T, 16 / sizeof(T)>> aligned((packed.values.size() * sizeof(T) + 15) / 16);
    std::copy(packed.values.begin(), packed.values.end(), reinterpret_cast<T*>(aligned.data()));
    const auto* data = reinterpret_cast<const T*>(aligned.data());
    if (plan.is_direct()) {
      DirectParams params = direct_params_of(step, call);
      set_coefficients(params, packed, data);
      for (int64_t n = 0; n < 3; ++n) run_block(n, 3, 32, 0, order, [&] { run_direct<S, T>(params); });
      return;
    }
    with_kernel_of<S>(plan.tile, call.sources, [&](auto kernel) {
      using K = typename decltype(kernel)::Type;
      typename K::Parameters params;
      if constexpr (std::is_same_v<typename K::Parameters, Params>)
        params = params_of(step, plan, call);
      else if constexpr (std::is_same_v<typename K::Parameters, DenseParams>)
        params = dense_params_of(step, plan, call);
      else
        params = tensor_params_of(step, plan, call);
      set_coefficients(params, packed, data);
      for (int64_t n = 0; n < plan.blocks; ++n) {
        const int64_t index = order == Order::forward ? n : plan.blocks - 1 - n;
        run_block(index, plan.blocks, plan.warps * 32, static_cast<size_t>(plan.shared_bytes), order,
                  [&] { K::run(params); });
      }
    });
  });
}

void sample(const SampleCall& call, Order order) {
  const SamplePlan plan = plan_sample(call);
  with_storage(call.scalar, [&](auto storage) {
    using S = decltype(storage);
    // Where a block draws a row, there are fewer blocks than rows, so that a block takes several rows.
    const int64_t blocks = plan.shared_bytes > 0 && plan.blocks > 2 ? 2 : plan.blocks;
    for (int64_t n = 0; n < blocks; ++n)
      run_block(n, blocks, plan.threads, static_cast<size_t>(plan.shared_bytes), order, [&] {
        switch (plan.form) {
          case SampleForm::two: return SampleFew<S, 2>::run(plan.params);
          case SampleForm::few: return SampleFew<S, kFewColumns>::run(plan.params);
          case SampleForm::block: return SampleBlock<S>::run(plan.params);
          default: return SampleLong<S>::run(plan.params);
        }
      });
  });
}

}  // namespace ssg::cuda::host

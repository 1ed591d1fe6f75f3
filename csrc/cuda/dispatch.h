// Which kernel serves a plan: calls f with the storage type and the two engines.
#pragma once

#include <stdexcept>

#include "engines.h"
#include "guided.h"
#include "launch_plan.h"

namespace ssg::cuda {

template <class S>
struct Storage {
  using Compute = float;
};
template <>
struct Storage<double> {
  using Compute = double;
};

template <class K>
struct Kernel {
  using Type = K;
};

template <class S, class F>
void with_kernel_of(const LaunchPlan& plan, F&& f) {
  using T = typename Storage<S>::Compute;
  if (plan.engine == Engine::fma) {
    if constexpr (sizeof(S) < 8)
      if (plan.thread_columns == 4) return f(Kernel<Guided<S, Fma<T, 4>, Fma<T, 4>>>{});
    if (plan.thread_columns == 2) return f(Kernel<Guided<S, Fma<T, 2>, Fma<T, 2>>>{});
    if (plan.thread_columns == 1) return f(Kernel<Guided<S, Fma<T, 1>, Fma<T, 1>>>{});
  } else if constexpr (sizeof(S) < 8) {
    if (plan.thread_columns == 4) return f(Kernel<Guided<S, Mma<4, 2, 1>, Mma<4, 2, 1>>>{});
    if (plan.chunks == 2) return f(Kernel<Guided<S, Mma<2, 4, 1>, Mma<2, 2, 2>>>{});
    if (plan.thread_columns == 2) return f(Kernel<Guided<S, Mma<2, 4, 1>, Mma<2, 2, 1>>>{});
  }
  throw std::logic_error("no kernel for this plan");
}

template <class F>
void with_storage(Scalar scalar, F&& f) {
  switch (scalar) {
    case Scalar::float32: return f(float{});
    case Scalar::float64: return f(double{});
    case Scalar::bfloat16: return f(BFloat16{});
    case Scalar::float16: return f(Float16{});
    default: throw std::logic_error("logits of this type");
  }
}

}  // namespace ssg::cuda

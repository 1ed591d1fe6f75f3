// The operator _prior_linear: scale * P x, or scale * P^T x. The derivatives of the guided operators use it.
#include <utility>

#include "backend.h"
#include "checks.h"
#include "kernels.h"
#include "run.h"

namespace ssg::ops {
namespace {

constexpr const char* kName = "_prior_linear";

// As a guided step without current logits.
Tensor prior_linear(PriorLinearArguments&& given) {
  const StepKey key = checks::prior_linear(given);
  const Operand x = readable(std::move(given.x));
  const auto tokens = static_cast<int64_t>((key.transposed ? key.prev_size : key.size).tokens());
  Operand out(empty_like(x, {x.size[0], tokens, x.size[2]}, x.dtype));
  const Strength scale = given.scale.strength();
#if defined(SSG_HAVE_CUDA)
  if (!x.device.is_cpu()) {
    cuda::GuidedCall call;
    fill(call, 1, x, x, out);
    call.current[0].data = nullptr;
    call.beta = scale;
    run(key, call, x);
    return std::move(out.tensor);
  }
#endif
  cpu::GuidedCall call;
  fill(call, 1, x, x, out);
  call.current[0].data = nullptr;
  Numbers weights(2 * call.batch);
  for (int64_t b = 0; b < call.batch; ++b) {
    weights.data()[2 * b] = 0.0;
    weights.data()[2 * b + 1] = number_of(scale, b);
  }
  call.weights = weights.data();
  run(key, call);
  return std::move(out.tensor);
}

void boxed(StableIValue* stack, uint64_t, uint64_t) {
  const bool here = serves(stack[0]);
  if (!here && fall_back(kName, "", stack)) return;
  PriorLinearArguments given(stack);
  if (!here) refuse(kName, given.x.device);
  stack[0] = prior_linear(std::move(given)).release();
}

}  // namespace

void append_prior_linear(std::vector<Kernel>& kernels) { kernels.push_back({kName, &boxed}); }

}  // namespace ssg::ops

// The guided operators.
#include <utility>

#include "backend.h"
#include "checks.h"
#include "cpu/memory.h"
#include "kernels.h"
#include "run.h"

namespace ssg::ops {
namespace {

#if defined(SSG_HAVE_CUDA)
void run_on_cuda(const StepKey& key, const GuidedArguments& given, const Operand& out) {
  cuda::GuidedCall call;
  fill(call, given.sources(), given.logits, given.prev_logits, out);
  Strength* const strengths[kMostStrengths] = {&call.beta, &call.cfg, &call.prev_cfg};
  for (size_t s = 0; s < given.overload.op.strengths; ++s) *strengths[s] = given.strengths[s].strength();
  run(key, call, given.logits);
}
#endif

// guided = (1 + beta) m - beta P m_prev, where under cfg m = (1 + t) cond - t uncond.
void set_weights(double* weight, const GuidedArguments& given, int64_t batch) {
  Strength strength[kMostStrengths];
  for (size_t s = 0; s < given.overload.op.strengths; ++s) strength[s] = given.strengths[s].strength();
  for (int64_t b = 0; b < batch; ++b) {
    const double beta = number_of(strength[0], b);
    if (!given.overload.op.is_cfg()) {
      *weight++ = 1 + beta;
      *weight++ = -beta;
      continue;
    }
    const double t = number_of(strength[1], b);
    const double prev_t = number_of(strength[2], b);
    for (double value : {(1 + beta) * (1 + t), -(1 + beta) * t, -beta * (1 + prev_t), beta * prev_t}) *weight++ = value;
  }
}

void run_on_cpu(const StepKey& key, const GuidedArguments& given, const Operand& out) {
  cpu::GuidedCall call;
  fill(call, given.sources(), given.logits, given.prev_logits, out);
  Numbers weights(2 * call.sources * call.batch);
  set_weights(weights.data(), given, call.batch);
  call.weights = weights.data();
  run(key, call);
}

Tensor guided(GuidedArguments&& given) {
  const StepKey key = checks::guided(given);
  if (given.out) checks::output_memory(given.name(), *given.out, given.logits, given.prev_logits);
  const bool is_new = !given.out;
  if (is_new)
    given.out.emplace(
        empty_like(given.logits, {given.batch(), given.logits.size[1], given.logits.size[2]}, given.logits.dtype));
  Operand& out = *given.out;
  given.logits = readable(std::move(given.logits));
  given.prev_logits = readable(std::move(given.prev_logits));
#if defined(SSG_HAVE_CUDA)
  if (!out.device.is_cpu()) {
    run_on_cuda(key, given, out);
    return std::move(out.tensor);
  }
#endif
  if (is_new)
    cpu::advise_huge_pages(out.tensor.mutable_data_ptr(), out.tensor.numel() * item_bytes(*scalar_of(out.dtype)));
  run_on_cpu(key, given, out);
  return std::move(out.tensor);
}

// Bit 0 of Variant says whether the overload writes into `out`. The bits above say which strengths are floats.
template <size_t Operator, unsigned Variant>
void boxed(StableIValue* stack, uint64_t, uint64_t) {
  constexpr GuidedOverload overload = {kGuidedOperators[Operator], Variant / 2, Variant % 2 != 0};
  const bool here = serves(stack[0]);
  if (!here && fall_back(overload.op.name, overload.name(), stack)) return;
  GuidedArguments given(overload, stack);
  if (!here) refuse(given.name(), given.logits.device);
  stack[0] = guided(std::move(given)).release();
}

template <size_t Operator, unsigned... Variants>
void append_overloads(std::vector<Kernel>& kernels, std::integer_sequence<unsigned, Variants...>) {
  constexpr GuidedOperator op = kGuidedOperators[Operator];
  (kernels.push_back(
       {joined(op.name, GuidedOverload{op, Variants / 2, Variants % 2 != 0}.name()), &boxed<Operator, Variants>}),
   ...);
}

template <size_t... Operators>
void append_operators(std::vector<Kernel>& kernels, std::index_sequence<Operators...>) {
  (append_overloads<Operators>(kernels,
                               std::make_integer_sequence<unsigned, 2u << kGuidedOperators[Operators].strengths>{}),
   ...);
}

}  // namespace

void append_guided(std::vector<Kernel>& kernels) {
  append_operators(kernels, std::make_index_sequence<std::size(kGuidedOperators)>{});
}

}  // namespace ssg::ops

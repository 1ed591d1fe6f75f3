// The sampling operators: one token per position.
#include "cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "backend.h"
#include "checks.h"
#include "kernels.h"
#include "run.h"
#include "text.h"

namespace ssg::ops {
namespace {

struct SampleOverload {
  const char* op;
  const char* overload;
  ScaleKind scale;
  bool filters_are_numbers;
};
constexpr SampleOverload kOverloads[] = {{"sample", "", ScaleKind::none, true},
                                         {"_sample_tempered", "", ScaleKind::tensor, true},
                                         {"_sample_tempered", "float", ScaleKind::number, true},
                                         {"_sample_tempered", "tensors", ScaleKind::tensor, false}};

void fill(SampleCall& call, const SampleArguments& given, const Tensor& out) {
  const Operand& logits = given.logits;
  call.scalar = *scalar_of(logits.dtype);
  call.batch = logits.size[0];
  call.tokens = logits.size[1];
  call.vocabulary = logits.size[2];
  call.logits = logits_at(logits, 0);
  call.uniform = given.uniform.tensor.const_data_ptr();
  call.uniform_is_double = given.uniform.dtype == ScalarType::Double;
  call.uniform_batch_stride = given.uniform.stride[0];
  call.uniform_token_stride = given.uniform.stride[1];
  call.out = static_cast<int64_t*>(out.mutable_data_ptr());
}

#if defined(SSG_HAVE_CUDA)
void run_on_cuda(const SampleArguments& given, const Tensor& out) {
  cuda::SampleCall call;
  fill(call, given, out);
  call.scale = given.scale.strength();
  call.top_k = given.top_k.strength();
  call.top_p = given.top_p.strength();
  on_current_stream(given.logits, [&](int32_t device, void* stream) { cuda::sample(call, device, stream); });
}
#endif

// The largest logit of a row in which it is not finite.
double largest_of(const Logits& logits, Scalar scalar, int64_t vocabulary, int64_t b, int64_t t) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t v = 0; v < vocabulary; ++v) {
    const double value = number_at(logits.data, scalar, b * logits.batch_stride + t * logits.token_stride + v);
    if (std::isnan(value)) return value;
    largest = std::max(largest, value);
  }
  return largest;
}

// The nearest number from 0 to `most`; 0 for NaN.
double within(double x, double most) { return x > 0 ? std::min(x, most) : 0.0; }

void run_on_cpu(const SampleArguments& given, const Tensor& out) {
  cpu::SampleCall call;
  fill(call, given, out);
  Numbers scales(call.batch);
  Numbers top_ks(call.batch);
  Numbers top_ps(call.batch);
  const Strength scale = given.scale.strength();
  const Strength top_k = given.top_k.strength();
  const Strength top_p = given.top_p.strength();
  for (int64_t b = 0; b < call.batch; ++b) {
    const double value = number_of(scale, b);
    if (!(value > 0 && value < std::numeric_limits<double>::infinity()) && call.tokens > 0)
      fail("sample: scale must be positive and finite, got ", number_text(value));
    scales.data()[b] = value;
    top_ks.data()[b] = within(number_of(top_k, b), static_cast<double>(call.vocabulary));
    top_ps.data()[b] = within(number_of(top_p, b), 1.0);
  }
  call.scale = scales.data();
  call.top_k = top_ks.data();
  call.top_p = top_ps.data();
  const int64_t empty = cpu::sample(call, in_parallel);
  if (empty < 0) return;
  const int64_t b = empty / call.tokens;
  const int64_t t = empty % call.tokens;
  fail("sample: logits must have a finite largest value in every row, got ",
       number_text(largest_of(call.logits, call.scalar, call.vocabulary, b, t)), " at (", b, ", ", t, ")");
}

Tensor sample(const char* name, SampleArguments&& given) {
  checks::sample(name, given);
  given.logits = readable(std::move(given.logits));
  Tensor out = empty_like(given.logits, {given.logits.size[0], given.logits.size[1]}, ScalarType::Long);
#if defined(SSG_HAVE_CUDA)
  if (!given.logits.device.is_cpu()) {
    run_on_cuda(given, out);
    return out;
  }
#endif
  run_on_cpu(given, out);
  return out;
}

template <size_t I>
void boxed(StableIValue* stack, uint64_t, uint64_t) {
  constexpr SampleOverload overload = kOverloads[I];
  const bool here = serves(stack[0]);
  if (!here && fall_back(overload.op, overload.overload, stack)) return;
  SampleArguments given(overload.scale, overload.filters_are_numbers, stack);
  if (!here) refuse(overload.op, given.logits.device);
  stack[0] = sample(overload.op, std::move(given)).release();
}

template <size_t... I>
void append_overloads(std::vector<Kernel>& kernels, std::index_sequence<I...>) {
  (kernels.push_back({joined(kOverloads[I].op, kOverloads[I].overload), &boxed<I>}), ...);
}

}  // namespace

void append_sample(std::vector<Kernel>& kernels) {
  append_overloads(kernels, std::make_index_sequence<std::size(kOverloads)>{});
}

}  // namespace ssg::ops

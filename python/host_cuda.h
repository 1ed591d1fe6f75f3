// What the bindings of the CUDA kernels share: calls as Python describes them.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "cuda/call.h"
#include "cuda/launch_plan.h"
#include "names.h"
#include "step.h"

namespace ssg::host_cuda {

// Address, batch stride, token stride.
using Place = std::tuple<uintptr_t, int64_t, int64_t>;
// Address or 0, stride, dtype, value.
using Number = std::tuple<uintptr_t, int64_t, std::string, double>;

inline Logits logits_of(const Place& place) {
  return {reinterpret_cast<const void*>(std::get<0>(place)), std::get<1>(place), std::get<2>(place)};
}

inline Strength strength_of(const Number& number) {
  return {reinterpret_cast<const void*>(std::get<0>(number)), std::get<1>(number),
          parse("strength", kStrengthDtypes, std::get<2>(number)), std::get<3>(number)};
}

struct Call {
  Step step;
  cuda::GuidedCall call;
  cuda::Machine machine;
};

inline cuda::SampleCall sample_call_of(const Place& logits, const Place& uniform, bool uniform_is_double,
                                       const Number& scale, uintptr_t out, const std::string& dtype, int64_t batch,
                                       int64_t tokens, int64_t vocabulary, const Number& top_k, const Number& top_p) {
  cuda::SampleCall call;
  call.scalar = parse("dtype", kDtypes, dtype);
  call.batch = batch;
  call.tokens = tokens;
  call.vocabulary = vocabulary;
  call.logits = logits_of(logits);
  call.uniform = reinterpret_cast<const void*>(std::get<0>(uniform));
  call.uniform_batch_stride = std::get<1>(uniform);
  call.uniform_token_stride = std::get<2>(uniform);
  call.uniform_is_double = uniform_is_double;
  call.scale = strength_of(scale);
  call.top_k = strength_of(top_k);
  call.top_p = strength_of(top_p);
  call.out = reinterpret_cast<int64_t*>(out);
  return call;
}

}  // namespace ssg::host_cuda

// The strengths of a sample, read where the kernel runs, and the weights of its sources.
#pragma once

#include "call.h"
#include "device.h"

namespace ssg::cuda {

SSG_DEVICE double read_strength(const Strength& s, int64_t batch) {
  if (s.data == nullptr) return s.value;
  const int64_t at = batch * s.stride;
  switch (s.scalar) {
    case Scalar::float32: return static_cast<const float*>(s.data)[at];
    case Scalar::float64: return static_cast<const double*>(s.data)[at];
    case Scalar::bfloat16: return to_float(static_cast<const BFloat16*>(s.data)[at]);
    case Scalar::float16: return to_float(static_cast<const Float16*>(s.data)[at]);
    case Scalar::uint8: return static_cast<const uint8_t*>(s.data)[at];
    case Scalar::int8: return static_cast<const int8_t*>(s.data)[at];
    case Scalar::int16: return static_cast<const int16_t*>(s.data)[at];
    case Scalar::int32: return static_cast<const int32_t*>(s.data)[at];
    case Scalar::int64: return static_cast<double>(static_cast<const int64_t*>(s.data)[at]);
    case Scalar::boolean: return static_cast<const uint8_t*>(s.data)[at] != 0 ? 1.0 : 0.0;
  }
  return 0.0;
}

// The factors of the sources: (1 + beta)(1 + t) and -(1 + beta) t, -beta (1 + t') and beta t', with t = cfg, t' =
// prev_cfg.
template <class T>
struct Weights {
  T current[2];
  T previous[2];
};

template <class T>
SSG_DEVICE Weights<T> read_weights(const GuidedCall& call, int64_t batch) {
  const double beta = read_strength(call.beta, batch);
  if (call.current[0].data == nullptr) return {{T(0), T(0)}, {static_cast<T>(beta), T(0)}};
  if (call.sources == 1) return {{static_cast<T>(1 + beta), T(0)}, {static_cast<T>(-beta), T(0)}};
  const double t = read_strength(call.cfg, batch);
  const double prev_t = read_strength(call.prev_cfg, batch);
  return {{static_cast<T>((1 + beta) * (1 + t)), static_cast<T>(-(1 + beta) * t)},
          {static_cast<T>(-beta * (1 + prev_t)), static_cast<T>(beta * prev_t)}};
}

// The same with the factor of the prior apart: current[0] + current[1] + prior P (merge[0] + merge[1]).
struct MergedWeights {
  float current[2];
  float merge[2];
  float prior;
};

SSG_DEVICE MergedWeights read_merged_weights(const GuidedCall& call, int64_t batch) {
  const Weights<float> weights = read_weights<float>(call, batch);
  if (call.sources == 1) return {{weights.current[0], 0.0f}, {1.0f, 0.0f}, weights.previous[0]};
  const double beta = read_strength(call.beta, batch);
  const double prev_t = read_strength(call.prev_cfg, batch);
  return {{weights.current[0], weights.current[1]},
          {static_cast<float>(1 + prev_t), static_cast<float>(-prev_t)},
          static_cast<float>(-beta)};
}

template <class T>
SSG_DEVICE bool is_minus_infinity(T x) {
  return x < (sizeof(T) == 8 ? T(-1.7976931348623157e308) : T(-3.402823466e38f));
}

}  // namespace ssg::cuda

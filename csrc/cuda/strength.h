// A sample's strength, read where the kernel runs.
#pragma once

#include "device.h"
#include "kernel.h"

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

}  // namespace ssg::cuda

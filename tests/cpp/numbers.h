// The numbers of each dtype, as double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "names.h"

namespace ssg::test {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr Scalar kScalars[] = {Scalar::float32, Scalar::float64, Scalar::bfloat16, Scalar::float16};

struct Number {
  const char* name;
  int64_t bytes;
  int mantissa_bits;
  int min_exponent;
};

inline const Number& number(Scalar scalar) {
  static const Number numbers[] = {
      {"float32", 4, 23, -126}, {"bfloat16", 2, 7, -126}, {"float16", 2, 10, -14}, {"float64", 8, 52, -1022}};
  return numbers[static_cast<int>(scalar)];
}

inline double ulp(double x, Scalar scalar) {
  const Number& n = number(scalar);
  const int exponent = x == 0.0 ? n.min_exponent : std::max(std::ilogb(x), n.min_exponent);
  return std::ldexp(1.0, exponent - n.mantissa_bits);
}

// The nearest number of the dtype, ties to even, rounded straight from double.
inline double rounded(double x, Scalar scalar) {
  if (scalar == Scalar::float64 || !std::isfinite(x)) return x;
  const double unit = ulp(x, scalar);
  return std::nearbyint(x / unit) * unit;
}

inline double decode_half(uint16_t half, const Number& n) {
  const int exponent_bits = 15 - n.mantissa_bits;
  const int mantissa = half & ((1 << n.mantissa_bits) - 1);
  const int exponent = (half >> n.mantissa_bits) & ((1 << exponent_bits) - 1);
  double value;
  if (exponent == (1 << exponent_bits) - 1)
    value = mantissa == 0 ? kInfinity : kNaN;
  else
    value = std::ldexp(mantissa + (exponent > 0 ? 1 << n.mantissa_bits : 0),
                       std::max(exponent, 1) - 1 + n.min_exponent - n.mantissa_bits);
  return half >> 15 != 0 ? -value : value;
}

inline std::vector<double> every_half(Scalar scalar) {
  std::vector<double> values;
  for (int half = 0; half < 0x10000; ++half) values.push_back(decode_half(static_cast<uint16_t>(half), number(scalar)));
  return values;
}

inline double decode(const char* from, Scalar scalar) {
  static const std::vector<double> bfloat16 = every_half(Scalar::bfloat16);
  static const std::vector<double> float16 = every_half(Scalar::float16);
  uint16_t half;
  float single;
  double value;
  switch (scalar) {
    case Scalar::float32: std::memcpy(&single, from, sizeof(single)); return single;
    case Scalar::float64: std::memcpy(&value, from, sizeof(value)); return value;
    case Scalar::bfloat16: std::memcpy(&half, from, sizeof(half)); return bfloat16[half];
    case Scalar::float16: std::memcpy(&half, from, sizeof(half)); return float16[half];
    default: break;
  }
  std::abort();
}

// `value` must be a number of the dtype already.
inline void encode(char* to, double value, Scalar scalar) {
  const float single = static_cast<float>(value);
  switch (scalar) {
    case Scalar::float32: std::memcpy(to, &single, sizeof(single)); return;
    case Scalar::float64: std::memcpy(to, &value, sizeof(value)); return;
    default: break;
  }
  const Number& n = number(scalar);
  const int exponent_bits = 15 - n.mantissa_bits;
  int bits;
  if (std::isnan(value)) {
    bits = 0x7fff;
  } else if (std::isinf(value)) {
    bits = ((1 << exponent_bits) - 1) << n.mantissa_bits;
  } else {
    const int exponent = value == 0.0 ? n.min_exponent : std::max(std::ilogb(value), n.min_exponent);
    // The implicit bit, where there is one, counts the exponent up from that of the subnormal numbers.
    bits = static_cast<int>(std::ldexp(std::abs(value), n.mantissa_bits - exponent)) +
           ((exponent - n.min_exponent) << n.mantissa_bits);
  }
  const uint16_t half = static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
  std::memcpy(to, &half, sizeof(half));
}

}  // namespace ssg::test

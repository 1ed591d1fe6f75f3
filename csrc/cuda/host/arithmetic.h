// device/arithmetic.h on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../device/base.h"
#include "../float16.h"

namespace ssg::cuda {

// The product is exact in float64. The sum is rounded twice, which differs from a fused one in one of 2^29 cases.
inline float fused_multiply_add(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
}
inline double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}
inline uint32_t population(uint32_t x) { return static_cast<uint32_t>(__builtin_popcount(x)); }
inline uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) { return a * b + c; }
inline uint64_t multiply_add_wide(uint32_t a, uint32_t b, uint32_t c) { return static_cast<uint64_t>(a) * b + c; }
inline uint32_t multiply_high_add(uint32_t a, uint32_t b, uint32_t c) { return multiply_high(a, b) + c; }
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}
template <class T>
T larger(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : (a > b ? a : b);
}
template <class T>
T smaller(T a, T b) {
  return -larger(-a, -b);
}
template <class T>
int32_t truncated(T x) {
  if (x != x) return 0;
  if (x >= 0x1p31f) return std::numeric_limits<int32_t>::max();
  return x >= -0x1p31f ? static_cast<int32_t>(x) : std::numeric_limits<int32_t>::min();
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline double double_of(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}
inline uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }
inline float to_float(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(Float16 x) { return float16_value(x.bits); }
inline void from_float(float& to, float x) { to = x; }
inline void from_float(double& to, double x) { to = x; }
inline void from_float(BFloat16& to, float x) {
  const uint32_t bits = bits_of(x);
  to.bits = x != x ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void from_float(Float16& to, float x) { to.bits = float16_bits(x); }
template <class T>
void mark_unless(T x, T low, uint32_t& mask, uint32_t bit) {
  if (!(x < low)) mask |= bit;
}
inline void unpack_float16(float& a, float& b, uint32_t word) {
  a = float16_value(static_cast<uint16_t>(word));
  b = float16_value(static_cast<uint16_t>(word >> 16));
}
inline uint32_t pack_float16(float a, float b) {
  return float16_bits(a) | static_cast<uint32_t>(float16_bits(b)) << 16;
}
inline uint32_t pack_bfloat16(float a, float b) {
  BFloat16 low;
  BFloat16 high;
  from_float(low, a);
  from_float(high, b);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

}  // namespace ssg::cuda

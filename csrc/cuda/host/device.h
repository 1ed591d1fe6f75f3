// The functions of device.h on the host. A block's threads are fibers that run one after another between barriers; see
// fibers.h. These functions check what a GPU would overlook or fault on: the alignment of vector accesses, the bounds
// of shared memory, the wait for asynchronous copies, and whether a warp is together at a warp instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "fibers.h"

namespace ssg::cuda {

inline int thread_index() { return host::current().thread; }
inline int thread_count() { return host::current().block->threads; }
inline int64_t block_index() { return host::current().block->index; }
inline int64_t block_count() { return host::current().block->count; }
inline void barrier() { host::block_barrier(); }
inline void converge() {}
inline unsigned char* shared_memory() { return host::current().block->shared; }

template <class V>
V load_shared(const V* from) {
  host::check_shared(from, sizeof(V), alignof(V));
  return *from;
}
template <class V>
void store_shared(V* to, const V& value) {
  host::check_shared(to, sizeof(V), alignof(V));
  *to = value;
}
template <class V>
V load_cached(const V* from) {
  static_assert(sizeof(V) == 16);
  host::check_alignment(from, sizeof(V));
  return *from;
}
template <class V>
V load_once(const V* from) {
  host::check_alignment(from, sizeof(V));
  return *from;
}
template <class V>
void store_global(V* to, const V& value) {
  host::check_alignment(to, sizeof(V));
  *to = value;
}

inline void copy_async_16(void* shared, const void* global) {
  host::check_shared(shared, 16, 16);
  host::check_alignment(global, 16);
  host::copy_async(shared, global, 16);
}
inline void copy_async_commit() { host::copy_async_commit(); }
inline void copy_async_wait() { host::copy_async_wait(); }

// The product is exact in float64. The sum is rounded twice, which differs from a fused one in one of 2^29 cases.
inline float fused_multiply_add(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
}
inline double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

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
inline float to_float(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t exponent = (x.bits >> 10) & 31;
  const uint32_t mantissa = x.bits & 1023;
  if (exponent == 31) return float_of(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return float_of(sign | bits_of(std::ldexp(static_cast<float>(mantissa), -24)));
  return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline void from_float(float& to, float x) { to = x; }
inline void from_float(double& to, double x) { to = x; }
inline void from_float(BFloat16& to, float x) {
  const uint32_t bits = bits_of(x);
  to.bits = x != x ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void from_float(Float16& to, float x) {
  const uint16_t sign = static_cast<uint16_t>(bits_of(x) >> 16 & 0x8000);
  const float magnitude = std::fabs(x);
  if (x != x) {
    to.bits = 0x7fff;
  } else if (magnitude >= 65520.0f) {  // halfway from the largest half to the next number
    to.bits = sign | 0x7c00;
  } else if (magnitude < 6.103515625e-05f) {  // subnormal: multiples of 2^-24, rounded to even
    to.bits = sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  } else {
    const uint32_t bits = bits_of(magnitude) - (112u << 23);
    to.bits = sign | static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1)) >> 13);
  }
}

inline uint64_t shuffle(uint64_t x, int lane) {
  float a[4] = {};
  std::memcpy(a, &x, 8);
  std::memcpy(&x, host::exchange(a, {0, 0}, 0)[lane].a, 8);
  return x;
}

inline uint32_t shuffle(uint32_t x, int lane) { return static_cast<uint32_t>(shuffle(uint64_t{x}, lane)); }

template <class T>
void add_lane_before(T& x, int distance) {
  const int lane = thread_index() % 32;
  const T other = shuffle(x, (lane - distance) & 31);
  if (lane >= distance) x += other;
}

inline void add_shared(uint64_t* to, uint64_t x) {
  host::check_shared(to, 8, 8);
  *to += x;
}
using SharedAddress = uint32_t;
inline SharedAddress shared_address(const void* at) {
  return static_cast<SharedAddress>(static_cast<const unsigned char*>(at) - shared_memory());
}
template <class T>
T* shared_at(SharedAddress at) {
  auto* found = reinterpret_cast<T*>(shared_memory() + at);
  host::check_shared(found, sizeof(T), sizeof(T));
  return found;
}
inline void count_shared_if(uint32_t x, uint32_t high, SharedAddress to) {
  if (x <= high) ++*shared_at<uint32_t>(to);
}
inline void count_if(uint32_t x, uint32_t high, uint32_t& count) { count += x <= high; }
inline void add_shared_if(uint32_t x, uint32_t low, SharedAddress to, uint32_t first, uint32_t second) {
  if (x < low) return;
  *shared_at<uint32_t>(to) += first;
  *shared_at<uint32_t>(to + 4) += second;
}
inline void append_shared_if(uint32_t x, uint32_t high, SharedAddress& to, uint16_t value) {
  if (x > high) return;
  *shared_at<uint16_t>(to) = value;
  to += 2;
}
inline uint32_t claim_shared(uint64_t* to) {
  add_shared(to, 1);
  return static_cast<uint32_t>(*to - 1);
}

// c += a b with the least accuracy that tensor cores may have: operands cut to tf32, the exact sum cut to float32.
inline void mma(float (&c)[4], const float (&a)[4], const float (&b)[2], int depth) {
  const host::Exchange* warp = host::exchange(a, b, depth);
  const auto tf32 = [](float x) { return static_cast<double>(float_of(bits_of(x) & 0xffffe000u)); };
  const int lane = thread_index() % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4;
    const int column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < depth; ++k)
      sum += tf32(warp[row * 4 + k % 4].a[k / 4 * 2 + i / 2]) * tf32(warp[column * 4 + k % 4].b[k / 4]);
    const float nearest = static_cast<float>(sum);
    c[i] = std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
  }
}
inline void mma_16x8x8(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  mma(c, {a0, a1, a2, a3}, {b0, b1}, 8);
}
inline void mma_16x8x4(float (&c)[4], float a0, float a1, float b0) { mma(c, {a0, a1, 0, 0}, {b0, 0}, 4); }

}  // namespace ssg::cuda

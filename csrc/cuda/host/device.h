// The functions of device.h on the host. A block's threads are fibers that run one after another between barriers; see
// fibers.h. These functions check what a GPU would overlook or fault on: the alignment of vector accesses, the bounds
// of shared memory, the wait for asynchronous copies, and whether a warp is together at a warp instruction.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../float16.h"
#include "fibers.h"

namespace ssg::cuda {

inline int thread_index() { return host::current().thread; }
inline int thread_count() { return host::current().block->threads; }
inline int64_t block_index() { return host::current().block->index; }
inline int64_t block_count() { return host::current().block->count; }
inline void barrier() { host::block_barrier(); }
inline int here(int x) { return x; }
inline uint32_t here(uint32_t x) { return x; }
inline int64_t here(int64_t x) { return x; }
inline int64_t stepped(int64_t x, int64_t y) { return x + y; }
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
const V* constants(const void* data) {
  host::check_alignment(data, alignof(V));
  return static_cast<const V*>(data);
}
inline int64_t global_address(const void* at) { return reinterpret_cast<int64_t>(at); }
template <class V>
V* global_place(int64_t address) {
  return reinterpret_cast<V*>(address);
}
template <class S>
void load_element(S& x, int64_t from) {
  host::check_alignment(reinterpret_cast<const S*>(from), sizeof(S));
  x = *reinterpret_cast<const S*>(from);
}
template <class S>
void store_element(int64_t to, S x) {
  host::check_alignment(reinterpret_cast<const S*>(to), sizeof(S));
  *reinterpret_cast<S*>(to) = x;
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

inline uint32_t largest_of_warp(uint32_t x) {
  for (int distance = 16; distance > 0; distance /= 2) x = std::max(x, shuffle(x, thread_index() % 32 ^ distance));
  return x;
}

inline void add_shared(uint32_t* low, uint32_t* high, uint64_t x) {
  host::check_shared(low, 4, 4);
  host::check_shared(high, 4, 4);
  const uint64_t sum = *low + (x & 0xffffffffu);
  *low = static_cast<uint32_t>(sum);
  *high += static_cast<uint32_t>(x >> 32) + static_cast<uint32_t>(sum >> 32);
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
template <int kApart>
void add_shared_if(uint32_t x, uint32_t low, SharedAddress to, uint64_t number) {
  if (x < low) return;
  *shared_at<uint32_t>(to) += static_cast<uint32_t>(number & 0xfffffu);
  *shared_at<uint32_t>(to + kApart) += static_cast<uint32_t>(number >> 20);
}
template <class T>
void mark_unless(T x, T low, uint32_t& mask, uint32_t bit) {
  if (!(x < low)) mask |= bit;
}
template <class T>
void append_shared_unless(T x, T low, SharedAddress& to) {
  if (x < low) return;
  *shared_at<T>(to) = x;
  to += sizeof(T);
}
inline uint32_t claim_shared(uint32_t* to) {
  host::check_shared(to, 4, 4);
  return (*to)++;
}

// Addresses in shared memory count from its start.
inline uint32_t shared_base() { return 0; }
inline unsigned char* shared_at(uint32_t at, size_t bytes) {
  unsigned char* pointer = shared_memory() + at;
  host::check_shared(pointer, bytes, bytes);
  return pointer;
}
template <int N>
void write_shared(uint32_t at, const uint32_t (&x)[N]) {
  std::memcpy(shared_at(at, sizeof(x)), x, sizeof(x));
}
template <int N>
void load_words(uint32_t (&x)[N], const void* from) {
  host::check_alignment(from, sizeof(x));
  std::memcpy(x, from, sizeof(x));
}
template <int N>
void store_words(void* to, const uint32_t (&x)[N]) {
  host::check_alignment(to, sizeof(x));
  std::memcpy(to, x, sizeof(x));
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

// A place in shared memory; load_shared and store_shared check it.
template <class V>
V* shared_pointer(uint32_t at) {
  return reinterpret_cast<V*>(shared_memory() + at);
}

inline bool barrier_or(bool condition) { return host::block_barrier_or(condition); }

// What lanes hand to each other in a warp instruction: their words, and which instruction it is.
enum class Exchanged : int { shuffle, matrices2, matrices4, mma8, mma16, nothing };
inline const host::Exchange* exchange(const uint32_t (&a)[4], const uint32_t (&b)[2], Exchanged what) {
  float words[4];
  float more[2];
  std::memcpy(words, a, sizeof(a));
  std::memcpy(more, b, sizeof(b));
  return host::exchange(words, more, static_cast<int>(what));
}

inline void converge() { exchange({}, {}, Exchanged::nothing); }

template <int N>
void load_matrices(uint32_t at, uint32_t (&r)[N]) {
  const host::Exchange* warp = exchange({at, 0, 0, 0}, {0, 0}, N == 2 ? Exchanged::matrices2 : Exchanged::matrices4);
  const int lane = thread_index() % 32;
  for (int m = 0; m < N; ++m) {
    r[m] = 0;
    for (int e = 0; e < 2; ++e) {
      const uint32_t row = bits_of(warp[8 * m + lane % 4 * 2 + e].a[0]);
      uint16_t half;
      std::memcpy(&half, shared_at(row, 16) + lane / 4 * 2, 2);
      r[m] |= static_cast<uint32_t>(half) << (16 * e);
    }
  }
}

// c += a b with the least accuracy that tensor cores may have: the exact sum, cut to float32.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int depth) {
  const host::Exchange* warp = exchange(a, b, depth == 16 ? Exchanged::mma16 : Exchanged::mma8);
  const auto half = [](float words, int e) {
    return double{float16_value(static_cast<uint16_t>(bits_of(words) >> (16 * e)))};
  };
  const int lane = thread_index() % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4;
    const int column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < depth; ++k)
      sum += half(warp[row * 4 + k % 8 / 2].a[i / 2 + k / 8 * 2], k % 2) *
             half(warp[column * 4 + k % 8 / 2].b[k / 8], k % 2);
    const float nearest = static_cast<float>(sum);
    c[i] = std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
  }
}
inline void mma_16x8x16(float (&c)[4], const Vec<uint32_t, 4>& a, uint32_t b0, uint32_t b1) {
  multiply(c, a.at, {b0, b1}, 16);
}
inline void mma_16x8x8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  multiply(c, {a0, a1, 0, 0}, {b0, 0}, 8);
}

}  // namespace ssg::cuda

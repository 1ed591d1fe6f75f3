// device/warp.h on the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../device/arithmetic.h"
#include "../device/shared.h"
#include "../device/threads.h"
#include "../float16.h"
#include "fibers.h"

namespace ssg::cuda {

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

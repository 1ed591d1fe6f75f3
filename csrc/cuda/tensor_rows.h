// The MMA engine: rows of strips that are not whole, eight at a time. Accesses of 16 bytes do not reach them, since they
// are not aligned or lack columns. Lane n loads and stores elements n, n + 32, ... of the eight rows, so that neighbouring
// lanes access neighbouring elements. The contractions want a run of neighbouring elements in each lane, so the rows pass
// through shared memory, where they lie one after the other.
#pragma once

#include <utility>

#include "device.h"

namespace ssg::cuda {

// Calls f(0), ..., f(N - 1). Where such a loop steps addresses, nvcc may take hours to unroll it.
template <class F, int... N>
SSG_DEVICE void call_each(F&& f, std::integer_sequence<int, N...>) {
  (f(N), ...);
}
template <int N, class F>
SSG_DEVICE void call_each(F&& f) {
  call_each(f, std::make_integer_sequence<int, N>{});
}

// Distances in bytes take fewer instructions.
template <class S>
SSG_DEVICE const S* moved(const S* x, int64_t bytes) {
  return reinterpret_cast<const S*>(reinterpret_cast<const char*>(x) + bytes);
}

template <class S, int Tiles>
struct ElementRows {
  static constexpr int columns = 8 * Tiles;
  static constexpr int per_thread = 2 * Tiles;
  static constexpr int words = per_thread * static_cast<int>(sizeof(S)) / 4;
  static constexpr int apart = 32 / columns;  // rows, from an element of a lane to its next one
  using Elements = S[per_thread];             // what a lane has of the eight rows
  using Run = Vec<uint32_t, words>;

  int lane;
  int row;
  int column;
  bool in_strip;  // the column exists

  static SSG_DEVICE void clear(Elements& to) {
    SSG_UNROLL
    for (int e = 0; e < per_thread; ++e) to[e] = S{};
  }

  // Loads the elements of this lane that exist: `count` of the rows do. `at` goes from the first one's address to the one
  // of the next eight rows, in steps of `distance`.
  SSG_DEVICE void load(Elements& to, int64_t& at, int64_t distance, int count) const {
    call_each<per_thread>([&](int e) {
      if (row + e * apart < count) load_element(to[e], at);
      at = stepped(at, distance);
    });
  }
  SSG_DEVICE void store(int64_t& at, int64_t distance, int count, const Elements& from) const {
    if (!in_strip) return;
    call_each<per_thread>([&](int e) {
      if (row + e * apart < count) store_element(at, from[e]);
      at = stepped(at, distance);
    });
  }

  // `stage`: where in shared memory they pass through.
  template <class V>
  SSG_DEVICE void put(uint32_t stage, const V (&from)[per_thread]) const {
    SSG_UNROLL
    for (int e = 0; e < per_thread; ++e) store_shared(shared_pointer<V>(stage) + lane + 32 * e, from[e]);
  }
  // Each of these two writes what this lane read when the other one ran. Where the other one did not run since, the warp
  // has to converge before.
  SSG_DEVICE void to_run(uint32_t (&to)[words], const Elements& from, uint32_t stage) const {
    put(stage, from);
    converge();
    const Run run = load_shared(shared_pointer<Run>(stage) + lane);
    SSG_UNROLL
    for (int w = 0; w < words; ++w) to[w] = run.at[w];
  }
  SSG_DEVICE void to_elements(Elements& to, const uint32_t (&from)[words], uint32_t stage) const {
    Run run;
    SSG_UNROLL
    for (int w = 0; w < words; ++w) run.at[w] = from[w];
    store_shared(shared_pointer<Run>(stage) + lane, run);
    converge();
    SSG_UNROLL
    for (int e = 0; e < per_thread; ++e) to[e] = load_shared(shared_pointer<S>(stage) + lane + 32 * e);
  }
};

}  // namespace ssg::cuda

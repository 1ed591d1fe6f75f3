// What the threads of a block do together while they draw from a row: sums, and the search for a bin of a histogram.
#pragma once

#include <cstdint>

#include "device.h"

namespace ssg::cuda {

// All threads of the block must call each function here.
struct Team {
  static constexpr int kBins = 8;  // bins of the histogram that a thread owns
  static constexpr int kMostWarps = 8;

  int thread;
  int threads;
  int lane;
  int warp;
  int warps;
  uint64_t* partial;    // [2][warps]
  uint64_t* found;      // [3], what one thread tells all
  uint64_t* histogram;  // [kBins * threads], zero between searches
  int turn = 0;         // which half of `partial` is next: the other one may still be read

  SSG_DEVICE explicit Team(uint64_t* memory)
      : thread(thread_index()),
        threads(thread_count()),
        lane(thread % 32),
        warp(thread / 32),
        warps(threads / 32),
        partial(memory + kBins * threads),
        found(partial + 2 * warps),
        histogram(memory) {
    SSG_UNROLL
    for (int i = 0; i < kBins; i += 2)
      store_shared(reinterpret_cast<Vec<uint64_t, 2>*>(histogram + thread * kBins + i), Vec<uint64_t, 2>{{0, 0}});
    barrier();
  }

  template <class T>
  SSG_DEVICE T scan_warp(T x) const {
    SSG_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) add_lane_before(x, distance);
    return x;
  }

  struct Sum {
    uint64_t before;  // of the threads before this one
    uint64_t all;
  };
  template <class T>
  SSG_DEVICE Sum sum(T own) {
    const T running = scan_warp(own);
    uint64_t* parts = partial + turn * warps;
    turn = 1 - turn;
    if (lane == 31) store_shared(parts + warp, static_cast<uint64_t>(running));
    barrier();
    Sum sum{static_cast<uint64_t>(running) - own, 0};
    SSG_UNROLL
    for (int w = 0; w < kMostWarps; ++w) {
      if (w == warps) break;
      const uint64_t part = load_shared(parts + w);
      if (w < warp) sum.before += part;
      sum.all += part;
    }
    return sum;
  }

  SSG_DEVICE uint64_t largest(uint64_t x) {
    SSG_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
      const uint64_t other = shuffle(x, lane ^ distance);
      x = other > x ? other : x;
    }
    uint64_t* parts = partial + turn * warps;
    turn = 1 - turn;
    if (lane == 0) store_shared(parts + warp, x);
    barrier();
    SSG_UNROLL
    for (int w = 0; w < kMostWarps; ++w) {
      if (w == warps) break;
      const uint64_t other = load_shared(parts + w);
      x = other > x ? other : x;
    }
    return x;
  }

  struct Bin {
    uint32_t index;
    uint64_t rest;  // of the target, without what the bins before hold
    uint64_t sum;   // what this bin holds, or 0 where all bins together do not reach the target
  };
  // The first bin with which the running sum reaches the target, which is computed from the sum of all. Begins with a
  // barrier, so that all additions to the histogram have arrived, and leaves the histogram zero. With `is_split` a bin is
  // two sums of 32 bits, of which the second counts 2^20 times.
  static constexpr int kSplit = 20;
  template <class Target>
  SSG_DEVICE Bin find_bin(Target&& target_of, bool is_split = false) {
    barrier();
    if (thread == 0) store_shared(found + 2, uint64_t{0});
    uint64_t bins[kBins];
    uint64_t own = 0;
    SSG_UNROLL
    for (int i = 0; i < kBins; i += 2) {
      auto* at = reinterpret_cast<Vec<uint64_t, 2>*>(histogram + thread * kBins + i);
      const Vec<uint64_t, 2> two = load_shared(at);
      store_shared(at, Vec<uint64_t, 2>{{0, 0}});
      bins[i] = is_split ? joined(two.at[0]) : two.at[0];
      bins[i + 1] = is_split ? joined(two.at[1]) : two.at[1];
      own += bins[i] + bins[i + 1];
    }
    const Sum before = sum(own);
    const uint64_t target = target_of(before.all);
    if (before.before < target && target <= before.before + own) {
      uint64_t below = before.before;  // what the bins before the one that is sought hold
      uint64_t running = below;
      uint64_t sum = 0;
      uint32_t index = 0;
      SSG_UNROLL
      for (int i = 0; i < kBins; ++i) {
        if (running < target) {
          below = running;
          sum = bins[i];
          index = static_cast<uint32_t>(i);
        }
        running += bins[i];
      }
      store_shared(found, static_cast<uint64_t>(thread * kBins) + index);
      store_shared(found + 1, target - below);
      store_shared(found + 2, sum);
    }
    barrier();
    return {static_cast<uint32_t>(load_shared(found)), load_shared(found + 1), load_shared(found + 2)};
  }

  static SSG_DEVICE uint64_t joined(uint64_t bin) { return (bin & 0xffffffffu) + (bin >> 32 << kSplit); }

  // Among tokens with keys from `low` to `high`, the key with which the running sum of their weights, in descending
  // order, reaches `rest`, of which what higher keys weigh is subtracted. `for_each(add)` calls add(key, weight).
  template <class Key, class ForEach>
  SSG_DEVICE Key descend(Key low, Key high, uint64_t& rest, ForEach&& for_each) {
    SSG_UNROLL_BY(1)
    while (low < high) {
      int shift = 0;
      while (static_cast<Key>(high - low) >> shift >= static_cast<Key>(kBins * threads)) ++shift;
      for_each([&](Key key, uint64_t weight) {
        if (low <= key && key <= high) add_shared(histogram + (static_cast<Key>(high - key) >> shift), weight);
      });
      const Bin bin = find_bin([&](uint64_t) { return rest; });
      rest = bin.rest;
      high = static_cast<Key>(high - (static_cast<Key>(bin.index) << shift));
      const Key width = static_cast<Key>((Key{1} << shift) - 1);
      low = static_cast<Key>(high - low) > width ? static_cast<Key>(high - width) : low;
    }
    return low;
  }
};

}  // namespace ssg::cuda

// What the threads of a block do together while they draw from a row: sums, and the search for a bin of a histogram.
#pragma once

#include <cstdint>

#include "device.h"

namespace ssg::cuda {

// Up to kMostWarps warps. A bin of the histogram is a sum in two words, of which the second counts 2^kSplit times. All
// threads of the block must call each function here. Between two calls of `sum` there must be a barrier, and between two
// of `largest`.
template <int kMostWarps, int kSplit>
struct SampleTeam {
  static constexpr int kBins = 8;  // bins that a thread owns
  static constexpr int kMostBins = kBins * 32 * kMostWarps;

  template <class T>
  struct Parts {
    T sums[kMostWarps];
    T largest[kMostWarps];
  };
  template <class T>
  struct Bin {
    uint32_t index;
    T rest;  // of the target, without what the bins before hold
    T sum;   // what this bin holds, or 0 where all bins together do not reach the target
  };
  struct Shared {
    uint32_t low[kMostBins];  // zero between searches
    uint32_t high[kMostBins];
    Parts<uint32_t> narrow;  // zero where there is no warp
    Parts<uint64_t> wide;
    Bin<uint64_t> found;
  };

  Shared& shared;
  const int thread;
  const int threads;
  const int lane;
  const int warp;

  SSG_DEVICE explicit SampleTeam(Shared& shared)
      : shared(shared),
        thread(thread_index()),
        threads(thread_count()),
        lane(static_cast<int>(static_cast<uint32_t>(thread) % 32)),
        warp(static_cast<int>(static_cast<uint32_t>(thread) / 32)) {
    zero(shared.low);
    zero(shared.high);
    if (thread < kMostWarps) {
      store_shared(shared.narrow.sums + thread, 0u);
      store_shared(shared.narrow.largest + thread, 0u);
      store_shared(shared.wide.sums + thread, uint64_t{0});
      store_shared(shared.wide.largest + thread, uint64_t{0});
    }
    barrier();
  }

  template <class T>
  SSG_DEVICE T scan_warp(T x) const {
    SSG_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) add_lane_before(x, distance);
    return x;
  }

  template <class T>
  struct Sum {
    T before;  // of the threads before this one
    T all;
  };
  template <class T>
  SSG_DEVICE Sum<T> sum(T own) {
    const T running = scan_warp(own);
    T* parts = parts_of(own).sums;
    if (lane == 31) store_shared(parts + warp, running);
    barrier();
    Sum<T> sum{running - own, 0};
    each_part(parts, [&](int w, T part) {
      if (w < warp) sum.before += part;
      sum.all += part;
    });
    return sum;
  }

  template <class T>
  SSG_DEVICE T largest(T x) {
    x = largest_in_warp(x);
    T* parts = parts_of(x).largest;
    if (lane == 0) store_shared(parts + warp, x);
    barrier();
    each_part(parts, [&](int, T part) { x = part > x ? part : x; });
    return x;
  }

  // Adds a number to the sum of a bin.
  SSG_DEVICE void add(uint32_t bin, uint64_t number) {
    if constexpr (kSplit == 32) {
      add_shared(shared.low + bin, shared.high + bin, number);
    } else {
      add_shared_if<kHigh>(0, 0, shared_address(shared.low + bin), number);
    }
  }
  static constexpr int kHigh = 4 * kMostBins;  // bytes from a bin's first word to its second

  // The first bin with which the running sum reaches the target, which is computed from the sum of all. Begins with a
  // barrier, so that all additions to the histogram have arrived, and leaves the histogram zero. Sums of 32 bits are those
  // of the first words.
  template <class T, class Target>
  SSG_DEVICE Bin<T> find_bin(Target&& target_of) {
    barrier();
    if (thread == 0) store_shared(&shared.found.sum, uint64_t{0});
    T bins[kBins];
    T own = 0;
    SSG_UNROLL
    for (int i = 0; i < kBins; i += 4) {
      const Run low = load_shared(run(shared.low, i));
      Run high{};
      if constexpr (sizeof(T) == 8) high = load_shared(run(shared.high, i));
      SSG_UNROLL
      for (int j = 0; j < 4; ++j) {
        bins[i + j] = joined(low.at[j], high.at[j], T{});
        own += bins[i + j];
      }
    }
    const Sum<T> before = sum(own);  // all threads have read their bins
    zero(shared.low);
    if constexpr (sizeof(T) == 8) zero(shared.high);
    const T target = target_of(before.all);
    if (before.before < target && target <= before.before + own) {
      T below = before.before;  // what the bins before the one that is sought hold
      T running = below;
      T sum = 0;
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
      store_shared(&shared.found.index, static_cast<uint32_t>(thread * kBins) + index);
      store_shared(&shared.found.rest, static_cast<uint64_t>(target - below));
      store_shared(&shared.found.sum, static_cast<uint64_t>(sum));
    }
    barrier();
    return {load_shared(&shared.found.index), static_cast<T>(load_shared(&shared.found.rest)),
            static_cast<T>(load_shared(&shared.found.sum))};
  }

  // Among tokens with keys from `low` to `high`, the key with which the running sum of their weights, in descending
  // order, reaches `rest`, of which what higher keys weigh is subtracted. `for_each(add)` calls add(key, weight).
  template <class Key, class ForEach>
  SSG_DEVICE Key descend(Key low, Key high, uint64_t& rest, ForEach&& for_each) {
    SSG_UNROLL_BY(1)
    while (low < high) {
      int shift = 0;
      while (static_cast<Key>(high - low) >> shift >= static_cast<Key>(kBins * threads)) ++shift;
      for_each([&](Key key, uint64_t weight) {
        if (low <= key && key <= high) add(static_cast<uint32_t>(static_cast<Key>(high - key) >> shift), weight);
      });
      const Bin<uint64_t> bin = find_bin<uint64_t>([&](uint64_t) { return rest; });
      rest = bin.rest;
      high = static_cast<Key>(high - (static_cast<Key>(bin.index) << shift));
      const Key width = static_cast<Key>((Key{1} << shift) - 1);
      low = static_cast<Key>(high - low) > width ? static_cast<Key>(high - width) : low;
    }
    return low;
  }

 private:
  using Run = Vec<uint32_t, 4>;
  SSG_DEVICE Run* run(uint32_t* words, int i) const { return reinterpret_cast<Run*>(words + thread * kBins + i); }
  // Neighbouring threads write neighbouring words, not their own ones, so that these lie in different banks.
  SSG_DEVICE void zero(uint32_t* words) const {
    SSG_UNROLL
    for (int i = 0; i < kBins / 4; ++i)
      store_shared(reinterpret_cast<Run*>(words) + i * threads + thread, Run{{0, 0, 0, 0}});
  }
  static SSG_DEVICE uint32_t joined(uint32_t low, uint32_t, uint32_t) { return low; }
  static SSG_DEVICE uint64_t joined(uint32_t low, uint32_t high, uint64_t) {
    if constexpr (kSplit == 32) return static_cast<uint64_t>(high) << 32 | low;
    return multiply_add_wide(high, 1u << kSplit % 32, low);
  }

  SSG_DEVICE Parts<uint32_t>& parts_of(uint32_t) const { return shared.narrow; }
  SSG_DEVICE Parts<uint64_t>& parts_of(uint64_t) const { return shared.wide; }
  template <class T, class F>
  static SSG_DEVICE void each_part(const T* parts, F&& f) {
    constexpr int kAtOnce = 16 / sizeof(T);
    SSG_UNROLL
    for (int w = 0; w < kMostWarps; w += kAtOnce) {
      const auto some = load_shared(reinterpret_cast<const Vec<T, kAtOnce>*>(parts + w));
      SSG_UNROLL
      for (int i = 0; i < kAtOnce; ++i) f(w + i, some.at[i]);
    }
  }

  static SSG_DEVICE uint32_t largest_in_warp(uint32_t x) { return largest_of_warp(x); }
  static SSG_DEVICE uint64_t largest_in_warp(uint64_t x) {
    const auto high = static_cast<uint32_t>(x >> 32);
    const uint32_t highest = largest_of_warp(high);
    return static_cast<uint64_t>(highest) << 32 | largest_of_warp(high == highest ? static_cast<uint32_t>(x) : 0);
  }
};

}  // namespace ssg::cuda

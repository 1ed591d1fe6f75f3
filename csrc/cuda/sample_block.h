// Sampling from long rows: a block draws a row.
#pragma once

#include "sample_row.h"

namespace ssg::cuda {

struct SampleParams {
  SampleCall call;
  int32_t bins_log = 0;
  bool staged = false;  // the keys lie in shared memory; else the logits are read again
};

SSG_DEVICE int width_of(uint64_t x) {
  int width = 0;
  for (int step = 32; step > 0; step /= 2)
    if (x >> step != 0) {
      x >>= step;
      width += step;
    }
  return width + static_cast<int>(x);
}

// Shared memory holds [warps][2] partial results, the two numbers of a find, the histogram, and the keys.
template <class S>
struct SampleBlock {
  using Key = typename Row<S>::Key;
  using Stored = typename Row<S>::Stored;

  const SampleParams& p;
  Row<S> row;
  uint64_t* partial;
  uint64_t* found;
  uint64_t* histogram;
  Stored* keys;
  int vocabulary;
  int thread;
  int threads;
  int lane;
  int warp;
  int warps;

  static SSG_DEVICE void run(const SampleParams& p) {
    const int warps = thread_count() / 32;
    auto* memory = reinterpret_cast<uint64_t*>(shared_memory());
    uint64_t* histogram = memory + 2 * warps + 2;
    SampleBlock block{p,
                      {p.call},
                      memory,
                      memory + 2 * warps,
                      histogram,
                      reinterpret_cast<Stored*>(histogram + (1 << p.bins_log)),
                      static_cast<int>(p.call.vocabulary),
                      thread_index(),
                      thread_count(),
                      thread_index() % 32,
                      thread_index() / 32,
                      warps};
    const int64_t rows = p.call.batch * p.call.tokens;
    SSG_UNROLL_BY(1)
    for (int64_t r = block_index(); r < rows; r += block_count()) {
      block.row.open(r);
      block.draw(p.call.out + r);
      barrier();  // shared memory may be overwritten
    }
  }

  SSG_DEVICE Key key(int v) const { return p.staged ? static_cast<Key>(load_shared(keys + v)) : row.key(v); }

  SSG_DEVICE void draw(int64_t* out) {
    Key low = Row<S>::kAll;
    Key high = 0;
    for (int v = thread; v < vocabulary; v += threads) {
      const Key key = row.key(v);
      if (p.staged) store_shared(keys + v, static_cast<Stored>(key));
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    low = static_cast<Key>(reduce(low, [](uint64_t a, uint64_t b) { return a < b ? a : b; }));
    high = static_cast<Key>(reduce(high, [](uint64_t a, uint64_t b) { return a > b ? a : b; }));
    if (!row.begin(low, high)) {
      if (thread == 0) *out = -1;
      return;
    }
    if (row.top_k > 0 && row.top_k < vocabulary) {
      const auto below = static_cast<uint64_t>(vocabulary - row.top_k);
      low = select(low, high, [](Key) { return uint64_t{1}; }, [=](uint64_t) { return below; }).key;
    }
    uint64_t gone = 0;  // how many columns with the lowest key top-p removes; the first ones go
    if (row.top_p > 0) {
      const Selected first = select(
          low, high, [this](Key key) { return row.weight(key); }, [this](uint64_t all) { return row.limit(all); });
      low = first.key;
      gone = first.left / row.weight(low);
    }
    choose(low, gone, out);
  }

  // ---- across threads: all threads of the block must call these

  template <class F>
  SSG_DEVICE uint64_t reduce_warp(uint64_t x, F&& f) const {
    SSG_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x = f(x, shuffle(x, lane ^ distance));
    return x;
  }
  // The sum of x over this lane and the lanes before it.
  SSG_DEVICE uint64_t scan_warp(uint64_t x) const {
    SSG_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint64_t before = shuffle(x, (lane - distance) & 31);
      if (lane >= distance) x += before;
    }
    return x;
  }
  template <class F>
  SSG_DEVICE uint64_t reduce(uint64_t x, F&& f) const {
    x = reduce_warp(x, f);
    if (lane == 0) store_shared(partial + warp, x);
    barrier();
    x = load_shared(partial);
    for (int w = 1; w < warps; ++w) x = f(x, load_shared(partial + w));
    barrier();
    return x;
  }

  struct Selected {
    Key key;
    uint64_t left;  // of the limit, once the weights of all lower keys are subtracted
  };

  // Adds up `weight_of_key` over the row's keys in [low, high] in ascending order, and returns the first key with which
  // the sum exceeds the limit. There must be one. `limit_of` gives the limit for the sum of all weights.
  template <class Weight, class Limit>
  SSG_DEVICE Selected select(Key low, Key high, Weight&& weight_of_key, Limit&& limit_of) const {
    uint64_t left = 0;
    bool is_first = true;
    SSG_UNROLL_BY(1)
    do {
      const Key range = high - low;
      const int excess = width_of(range) - p.bins_log;
      const int shift = excess > 0 ? excess : 0;
      const int bins = static_cast<int>(range >> shift) + 1;
      for (int bin = thread; bin < bins; bin += threads) store_shared(histogram + bin, uint64_t{0});
      barrier();
      for (int v = thread; v < vocabulary; v += threads) {
        const Key at = static_cast<Key>(key(v) - low);
        if (at <= range) add_shared(histogram + (at >> shift), weight_of_key(static_cast<Key>(low + at)));
      }
      barrier();
      // A thread takes neighbouring bins.
      const int per_thread = (bins + threads - 1) / threads;
      const int begin = thread * per_thread < bins ? thread * per_thread : bins;
      const int end = begin + per_thread < bins ? begin + per_thread : bins;
      uint64_t own = 0;
      for (int bin = begin; bin < end; ++bin) own += load_shared(histogram + bin);
      uint64_t running = scan_warp(own);
      if (lane == 31) store_shared(partial + warp, running);
      barrier();
      uint64_t all = 0;
      for (int w = 0; w < warps; ++w) {
        const uint64_t part = load_shared(partial + w);
        running += w < warp ? part : 0;
        all += part;
      }
      if (is_first) left = limit_of(all);
      is_first = false;
      running -= own;
      if (running <= left && left - running < own) {
        int bin = begin;
        for (; running + load_shared(histogram + bin) <= left; ++bin) running += load_shared(histogram + bin);
        store_shared(found, static_cast<uint64_t>(bin));
        store_shared(found + 1, left - running);
      }
      barrier();
      low = static_cast<Key>(low + (static_cast<Key>(load_shared(found)) << shift));
      left = load_shared(found + 1);
      const Key rest = static_cast<Key>(high - low);
      const Key width = static_cast<Key>((Key{1} << shift) - 1);
      high = static_cast<Key>(low + (rest < width ? rest : width));
    } while (low < high);
    return {low, left};
  }

  // Draws among the columns whose key exceeds `lowest`, and those with that key except the first `gone`. Each warp adds
  // up the weights of a run of columns. The warp in whose share the target lies walks through its run.
  SSG_DEVICE void choose(Key lowest, uint64_t gone, int64_t* out) const {
    const int share = (vocabulary + 32 * warps - 1) / (32 * warps) * 32;
    const int begin = warp * share < vocabulary ? warp * share : vocabulary;
    const int end = begin + share < vocabulary ? begin + share : vocabulary;
    const auto add = [](uint64_t a, uint64_t b) { return a + b; };
    uint64_t above = 0;
    uint64_t ties = 0;
    for (int v = begin + lane; v < end; v += 32) {
      const Key at = key(v);
      if (at > lowest) above += row.weight(at);
      ties += at == lowest;
    }
    above = reduce_warp(above, add);
    ties = reduce_warp(ties, add);
    if (lane == 0) {
      store_shared(partial + 2 * warp, above);
      store_shared(partial + 2 * warp + 1, ties);
    }
    barrier();
    const uint64_t tie = row.weight(lowest);
    uint64_t all = 0;      // the weight that stays
    uint64_t before = 0;   // the part of it that the warps before this one hold
    uint64_t own = 0;      // the part that this warp holds
    uint64_t skipped = 0;  // how many columns with the key `lowest` the warps before this one hold
    uint64_t seen = 0;
    for (int w = 0; w < warps; ++w) {
      if (w == warp) {
        before = all;
        skipped = seen;
      }
      const uint64_t count = load_shared(partial + 2 * w + 1);
      const uint64_t left = gone > seen ? gone - seen : 0;
      const uint64_t part = load_shared(partial + 2 * w) + (count > left ? count - left : 0) * tie;
      if (w == warp) own = part;
      all += part;
      seen += count;
    }
    const uint64_t target = row.target(all);
    if (target < before || target - before >= own) return;
    SSG_UNROLL_BY(1)
    for (int v = begin + lane; v - lane < end; v += 32) {
      const Key at = v < end ? key(v) : Key{0};                 // no key of a number is 0
      const uint64_t rank = skipped + scan_warp(at == lowest);  // 1 for the first
      const bool stays = at > lowest || (at == lowest && rank > gone);
      const uint64_t weight = stays ? row.weight(at) : 0;
      const uint64_t running = before + scan_warp(weight);
      if (running > target && running - weight <= target) *out = v;
      before = shuffle(running, 31);
      skipped = shuffle(rank, 31);
      if (before > target) return;
    }
  }
};

}  // namespace ssg::cuda

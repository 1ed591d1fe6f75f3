// Sampling without a sort. A block draws the tokens of a row: its logits become integer keys of the same order, on
// which two thresholds are found by radix selection, the k-th largest key and where top-p ends. Weights are whole
// numbers, so that sums are exact in any order: threads may add in any, and the result is the CPU kernel's.
#pragma once

#include <cstdint>
#include <cstring>

#include "device.h"
#include "kernel.h"
#include "strength.h"

namespace ssg::cuda {

#include "../weight.h"

// How a row is launched.
struct SampleParams {
  Sampling sampling;
  int32_t bins_log = 0;
  bool staged = false;  // the keys lie in shared memory; else the logits are read again
};

// Rows up to this long are drawn by a thread each, in time that grows with the length's square.
constexpr int64_t kFewColumns = 8;
constexpr int kMostBinsLog = 11;

SSG_DEVICE int width_of(uint64_t x) {
  int width = 0;
  for (int step = 32; step > 0; step /= 2)
    if (x >> step != 0) {
      x >>= step;
      width += step;
    }
  return width + static_cast<int>(x);
}

// How the logits of a type are stored, and keys in the order of the numbers, with one key for both zeros; a NaN lies
// beyond the infinities.
template <class S>
struct Keys {
  using Stored = uint16_t;
  using Key = uint32_t;
};
template <>
struct Keys<float> {
  using Stored = uint32_t;
  using Key = uint32_t;
};
template <>
struct Keys<double> {
  using Stored = uint64_t;
  using Key = uint64_t;
};

SSG_DEVICE double value_of(float, uint32_t bits) { return float_of(bits); }
SSG_DEVICE double value_of(double, uint64_t bits) { return double_of(bits); }
template <class S>
SSG_DEVICE double value_of(S, uint32_t bits) {
  return to_float(S{static_cast<uint16_t>(bits)});
}
SSG_DEVICE uint32_t infinity_of(float) { return 0x7f800000u; }
SSG_DEVICE uint64_t infinity_of(double) { return 0x7ff0000000000000u; }
SSG_DEVICE uint32_t infinity_of(BFloat16) { return 0x7f80u; }
SSG_DEVICE uint32_t infinity_of(Float16) { return 0x7c00u; }

// One row of logits, as keys and weights.
template <class S>
struct Row {
  using Stored = typename Keys<S>::Stored;
  using Key = typename Keys<S>::Key;
  static constexpr Key kSign = Key{1} << (8 * sizeof(Stored) - 1);
  static constexpr Key kAll = kSign | (kSign - 1);

  const Sampling& sampling;
  const Stored* logits = nullptr;
  double scale = 1.0;
  double share = 0.0;  // of the weights that stay, before the token
  double largest = 0.0;

  SSG_DEVICE void open(int64_t row) {
    const int64_t batch = row / sampling.tokens;
    const int64_t token = row - batch * sampling.tokens;
    const Logits& from = sampling.logits;
    logits = static_cast<const Stored*>(from.data) + batch * from.batch_stride + token * from.token_stride;
    scale = read_strength(sampling.scale, batch);
    const int64_t at = batch * sampling.uniform_batch_stride + token * sampling.uniform_token_stride;
    const double uniform = sampling.uniform_is_double ? static_cast<const double*>(sampling.uniform)[at]
                                                      : static_cast<const float*>(sampling.uniform)[at];
    share = uniform > 0 ? (uniform < 1 ? uniform : 1.0) : 0.0;  // 0 for NaN
  }

  SSG_DEVICE Key key(int64_t v) const {
    const Key bits = logits[v] == kSign ? 0 : logits[v];
    return (bits & kSign) != 0 ? bits ^ kAll : bits | kSign;
  }
  static SSG_DEVICE Key bits_of(Key key) { return (key & kSign) != 0 ? key ^ kSign : key ^ kAll; }

  // Whether a token can be drawn from a row whose keys lie in [low, high]; fixes what weights are relative to.
  SSG_DEVICE bool begin(Key low, Key high) {
    const Key infinity = infinity_of(S{}) | kSign;
    const Key minus_infinity = infinity_of(S{}) ^ (kSign - 1);
    largest = value_of(S{}, bits_of(high));
    return low >= minus_infinity && high < infinity && high != minus_infinity && scale > 0 &&
           scale < double_of(0x7ff0000000000000u);
  }

  SSG_DEVICE uint64_t weight(Key key) const {
    const double x = (value_of(S{}, bits_of(key)) - largest) * scale;
    return x > -25.0 ? static_cast<uint64_t>(weight_of(x)) : 0;
  }

  // The running weight that top-p's first token exceeds, and the token drawn.
  SSG_DEVICE uint64_t limit(uint64_t total) const { return part(1 - sampling.top_p, total); }
  SSG_DEVICE uint64_t target(uint64_t total) const { return part(share, total); }
  static SSG_DEVICE uint64_t part(double of, uint64_t total) {
    const auto found = static_cast<uint64_t>(of * static_cast<double>(total));
    return found < total ? found : total - 1;
  }
};

// A thread a row, without memory of its own: what it needs twice it computes twice.
template <class S>
struct SampleFew {
  using Key = typename Row<S>::Key;
  Row<S> row;
  int columns;
  Key lowest;      // of those that top-k keeps
  uint64_t limit;  // running weights up to it go

  static SSG_DEVICE void run(const Sampling& sampling) {
    const int64_t rows = sampling.batch * sampling.tokens;
    const int64_t first = block_index() * thread_count() + thread_index();
    for (int64_t r = first; r < rows; r += block_count() * thread_count()) {
      SampleFew few{{sampling}, static_cast<int>(sampling.vocabulary), 0, 0};
      few.row.open(r);
      sampling.out[r] = few.draw();
    }
  }

  SSG_DEVICE int64_t draw() {
    Key low = row.key(0);
    Key high = low;
    for (int v = 1; v < columns; ++v) {
      const Key key = row.key(v);
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    if (!row.begin(low, high)) return -1;
    lowest = low;
    if (row.sampling.top_k > 0) {
      lowest = high;
      for (int v = 0; v < columns; ++v) {
        int greater = 0;
        for (int u = 0; u < columns; ++u) greater += row.key(u) > row.key(v);
        if (greater < row.sampling.top_k && row.key(v) < lowest) lowest = row.key(v);
      }
    }
    if (row.sampling.top_p > 0) {
      uint64_t all = 0;
      for (int v = 0; v < columns; ++v)
        if (row.key(v) >= lowest) all += row.weight(row.key(v));
      limit = row.limit(all);
    }
    uint64_t total = 0;
    for (int v = 0; v < columns; ++v) total += kept(v);
    const uint64_t target = row.target(total);
    int v = 0;
    for (uint64_t running = kept(0); running <= target && v + 1 < columns; running += kept(v)) ++v;
    return v;
  }

  // The weight of a column, or 0 where a filter takes it.
  SSG_DEVICE uint64_t kept(int v) const {
    const Key key = row.key(v);
    if (key < lowest) return 0;
    const uint64_t weight = row.weight(key);
    if (row.sampling.top_p <= 0) return weight;
    uint64_t running = 0;
    for (int u = 0; u < columns; ++u) {
      const Key other = row.key(u);
      if (other >= lowest && (other < key || (other == key && u <= v))) running += row.weight(other);
    }
    return running > limit ? weight : 0;
  }
};

// A block a row. In shared memory: [warps][2] partial results, two that were found, the histogram, the keys.
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
                      {p.sampling},
                      memory,
                      memory + 2 * warps,
                      histogram,
                      reinterpret_cast<Stored*>(histogram + (1 << p.bins_log)),
                      static_cast<int>(p.sampling.vocabulary),
                      thread_index(),
                      thread_count(),
                      thread_index() % 32,
                      thread_index() / 32,
                      warps};
    const int64_t rows = p.sampling.batch * p.sampling.tokens;
    SSG_UNROLL_BY(1)
    for (int64_t r = block_index(); r < rows; r += block_count()) {
      block.row.open(r);
      block.draw(p.sampling.out + r);
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
    const Sampling& sampling = p.sampling;
    if (sampling.top_k > 0 && sampling.top_k < vocabulary) {
      const auto below = static_cast<uint64_t>(vocabulary - sampling.top_k);
      low = select(low, high, [](Key) { return uint64_t{1}; }, [=](uint64_t) { return below; }).key;
    }
    uint64_t gone = 0;  // of the columns with the lowest key, the first so many
    if (sampling.top_p > 0) {
      const Selected first = select(
          low, high, [this](Key key) { return row.weight(key); }, [this](uint64_t all) { return row.limit(all); });
      low = first.key;
      gone = first.left / row.weight(low);
    }
    choose(low, gone, out);
  }

  // ---- across the block's threads, all of which call these

  template <class F>
  SSG_DEVICE uint64_t reduce_warp(uint64_t x, F&& f) const {
    SSG_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x = f(x, shuffle(x, lane ^ distance));
    return x;
  }
  // The sum of this lane's and those of the lanes before it.
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
    uint64_t left;  // of the limit, after all that is below the key
  };

  // The first key, in ascending order, with which the running sum of `weight_of_key` over the row's keys in [low, high]
  // exceeds the limit; there is one. The limit follows from the sum of all.
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

  // Draws among the columns with greater keys than `lowest`, and those with that key but for the first `gone`. A warp
  // takes neighbouring columns; the one in whose share the target lies walks through them.
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
    uint64_t all = 0;      // weight that stays
    uint64_t before = 0;   // of that, in the shares of the warps before this
    uint64_t own = 0;      // in this one's
    uint64_t skipped = 0;  // of the first ties, those before this warp's share
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

// How many warps take a row, and whether it fits in the shared memory that every launch may use.
struct SamplePlan {
  int threads = 128;
  int64_t blocks = 1;
  int64_t shared_bytes = 0;  // 0 for a thread a row
  SampleParams params;
};
inline SamplePlan plan_sample(const Sampling& sampling) {
  SamplePlan plan;
  plan.params.sampling = sampling;
  const int64_t rows = sampling.batch * sampling.tokens;
  if (sampling.vocabulary <= kFewColumns) {
    plan.blocks = (rows + plan.threads - 1) / plan.threads;
  } else {
    int warps = 1;
    while (warps < 16 && warps * 512 < sampling.vocabulary) warps *= 2;
    plan.threads = 32 * warps;
    plan.blocks = rows;
    int bins_log = 5;
    while (bins_log < kMostBinsLog && int64_t{1} << bins_log < sampling.vocabulary) ++bins_log;
    const int64_t item = sampling.scalar == Scalar::float64 ? 8 : sampling.scalar == Scalar::float32 ? 4 : 2;
    plan.shared_bytes = 8 * (2 * warps + 2) + (int64_t{8} << bins_log);
    plan.params.bins_log = bins_log;
    plan.params.staged = plan.shared_bytes + sampling.vocabulary * item <= (48 << 10);
    if (plan.params.staged) plan.shared_bytes += (sampling.vocabulary * item + 7) / 8 * 8;
  }
  plan.blocks = plan.blocks < (1 << 20) ? plan.blocks : 1 << 20;
  return plan;
}

}  // namespace ssg::cuda

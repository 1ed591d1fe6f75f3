// Sampling from rows that a block holds: a block draws a row, and a thread holds 32 neighbouring tokens of it.
//
//  1. The logits come to shared memory as they are stored. Each thread takes its 32 as distances from the largest.
//  2. Top-k: a histogram of distances shows where the k-th lies. What may stay is listed in the order of the vocabulary,
//     and each thread takes its part of the list instead. Of the tokens in the bin of the k-th, some go.
//  3. Distances become weights. Top-p: a histogram of their sums shows where it ends. In that bin, some go.
//  4. The thread in whose part the running weight passes the uniform number finds the token.
//
// Few candidates in a bin are ranked directly; many are searched by their keys, level by level.
#pragma once

#include "sample_row.h"
#include "sample_team.h"

namespace ssg::cuda {

template <class S>
struct SampleBlock {
  using R = Row<S>;
  using Bits = typename R::Bits;
  using Value = typename R::Value;
  static constexpr int kOwn = SampleShared::kOwn;
  static constexpr int kStride = SampleShared::stride(sizeof(Bits));

  const R row;
  Team& team;
  const int vocabulary;
  Rank<Bits>* const found;
  uint64_t* const candidate_count;
  uint64_t* const candidate_weights;
  Rank<Bits>* const candidate_ranks;
  unsigned char* const logits;  // in the order of the vocabulary; a token's place is where its logit lies here
  uint16_t* const list;         // the places of the tokens that may stay
  uint32_t held[kOwn];          // of the tokens of this thread: distances, later the codes of weights
  int part = kOwn;              // how many these are at most, a multiple of 4
  bool is_listed = false;

  static SSG_DEVICE void run(const SampleParams& p) {
    unsigned char* memory = shared_memory();
    Team team(reinterpret_cast<uint64_t*>(memory));
    SSG_UNROLL_BY(1)
    for (int64_t r = block_index(); r < p.rows; r += block_count()) {
      SampleBlock block(R(p, r), team, p, memory);
      const int64_t token = block.draw();
      if (token >= 0 || (token == kNone && team.thread == 0)) p.call.out[r] = token;
      barrier();  // shared memory may be overwritten
    }
  }

  static constexpr int64_t kNone = -1;       // the row has no answer
  static constexpr int64_t kElsewhere = -2;  // another thread has it

  SSG_DEVICE SampleBlock(const R& row, Team& team, const SampleParams& p, unsigned char* memory)
      : row(row),
        team(team),
        vocabulary(static_cast<int>(p.call.vocabulary)),
        found(reinterpret_cast<Rank<Bits>*>(memory + p.shared.found)),
        candidate_count(reinterpret_cast<uint64_t*>(memory + p.shared.count)),
        candidate_weights(reinterpret_cast<uint64_t*>(memory + p.shared.weights)),
        candidate_ranks(reinterpret_cast<Rank<Bits>*>(memory + p.shared.ranks)),
        logits(memory + p.shared.logits),
        list(reinterpret_cast<uint16_t*>(memory + p.shared.list)) {}

  SSG_DEVICE int64_t draw() {
    const Value largest = load();
    if (!row.has_answer(largest)) return kNone;
    const Places<Value> places(largest, row.scale);
    SSG_UNROLL
    for (int j = 0; j < kOwn; j += kAtOnce) {
      const auto some =
          load_shared(reinterpret_cast<const Vec<Bits, kAtOnce>*>(logits + team.thread * kStride) + j / kAtOnce);
      SSG_UNROLL
      for (int i = 0; i < kAtOnce; ++i) held[j + i] = places.distance(R::value(some.at[i]));
    }
    if (row.top_k > 0 && row.top_k < vocabulary) keep_top_k(places);

    uint64_t own = 0;
    if (row.top_p > 0) {
      own = keep_top_p();
    } else {
      each([&](int j) {
        held[j] = code_of(held[j]);
        own += weight_of(held[j]);
      });
    }
    const Team::Sum weights = team.sum(own);
    const uint64_t target = part_of(weights.all, row.uniform);
    if (target < weights.before || target - weights.before >= own) return kElsewhere;
    uint64_t running = weights.before;
    int drawn = 0;
    each([&](int j) {
      running += weight_of(held[j]);
      drawn += running <= target;
    });
    const auto at = static_cast<int>(place(drawn));
    return at / kStride * kOwn + at % kStride / static_cast<int>(sizeof(Bits));
  }

 private:
  static constexpr int kAtOnce = 16 / sizeof(Bits);
  static constexpr int kRuns = kOwn / kAtOnce;

  // Calls f(j) for this thread's tokens.
  template <class F>
  SSG_DEVICE void each(F&& f) const {
    SSG_UNROLL
    for (int j = 0; j < kOwn; j += 4) {
      if (j >= part) break;
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) f(j + i);
    }
  }

  SSG_DEVICE uint32_t place(int j) const {
    if (is_listed) return load_shared(list + team.thread * part + j);
    return static_cast<uint32_t>(team.thread * kStride + j * static_cast<int>(sizeof(Bits)));
  }
  SSG_DEVICE Bits bits_at(uint32_t place) const { return load_shared(reinterpret_cast<const Bits*>(logits + place)); }
  SSG_DEVICE Rank<Bits> rank(int j) const {
    const uint32_t at = place(j);
    return {R::key(bits_at(at)), at};
  }
  SSG_DEVICE Bits key(int j) const { return R::key(bits_at(place(j))); }

  // Brings the row to shared memory, and returns the largest logit, or NaN.
  SSG_DEVICE Value load() {
    Value most = R::value(R::kMinusInfinity);
    if (vocabulary == kOwn * team.threads && row.is_aligned()) {
      using Run = Vec<Bits, kAtOnce>;
      const Run* from = reinterpret_cast<const Run*>(row.logits) + team.thread;
      Run runs[kRuns];
      SSG_UNROLL
      for (int j = 0; j < kRuns; ++j) runs[j] = load_once(from + j * team.threads);
      unsigned char* to = logits + team.thread / kRuns * kStride + team.thread % kRuns * 16;
      SSG_UNROLL
      for (int j = 0; j < kRuns; ++j) {
        SSG_UNROLL
        for (int i = 0; i < kAtOnce; ++i) most = larger(most, R::value(runs[j].at[i]));
        store_shared(reinterpret_cast<Run*>(to + j * (team.threads / kRuns) * kStride), runs[j]);
      }
    } else {
      SSG_UNROLL_BY(4)
      for (int v = team.thread; v < kOwn * team.threads; v += team.threads) {
        const Bits bits = v < vocabulary ? row.bits(v) : R::kMinusInfinity;
        most = larger(most, R::value(bits));
        store_shared(reinterpret_cast<Bits*>(logits + v / kOwn * kStride) + v % kOwn, bits);
      }
    }
    if (team.thread == 0) store_shared(candidate_count, uint64_t{0});
    using Order = Row<Value>;
    const auto order = static_cast<typename Order::Bits>(team.largest(Order::key(bits_of(most))));
    return Order::value(Order::bits_of_key(order));
  }

  // Distances of tokens below the k-th become kFar.
  SSG_DEVICE void keep_top_k(const Places<Value>& places) {
    const int shift = 30 - bins_log();
    const SharedAddress histogram = shared_address(team.histogram);
    each([&](int j) { count_shared_if(held[j], kFar - 1, histogram + (held[j] >> shift) * 8); });
    const auto target = static_cast<uint64_t>(row.top_k);
    const Team::Bin bin = team.find_bin([=](uint64_t) { return target; });
    if (bin.sum == 0) return;  // the k-th weighs nothing, nor do those behind it

    const uint32_t first = bin.index << shift;
    const uint32_t last = first + ((1u << shift) - 1);
    uint32_t count = 0;
    each([&](int j) { count_if(held[j], last, count); });
    const Team::Sum listed = team.sum(count);
    if (listed.all < static_cast<uint64_t>(vocabulary)) relist(listed, last, places);
    bool is_equal = false;
    const Bits kth = resolve<false>(first, last, [](uint32_t) { return uint64_t{1}; }, bin, 1, is_equal).key();
    if (is_equal) return;
    each([&](int j) {
      if (held[j] - first <= last - first && key(j) < kth) held[j] = kFar;
    });
  }

  // Lists the tokens up to the distance `last`. Each thread takes its part of the list.
  SSG_DEVICE void relist(const Team::Sum& listed, uint32_t last, const Places<Value>& places) {
    SharedAddress to = shared_address(list + listed.before);
    const uint32_t from = place(0);
    each([&](int j) { append_shared_if(held[j], last, to, static_cast<uint16_t>(from + j * sizeof(Bits))); });
    const auto all = static_cast<int>(listed.all);
    part = (all + 4 * team.threads - 1) / (4 * team.threads) * 4;
    is_listed = true;
    barrier();
    const int mine = all - team.thread * part;
    each([&](int j) { held[j] = j < mine ? places.distance(R::value(bits_at(place(j)))) : kFar; });
  }

  // Distances become codes. Codes of tokens that top-p removes become 0. Returns the weight of what stays.
  SSG_DEVICE uint64_t keep_top_p() {
    const int shift = 29 - bins_log();
    const SharedAddress histogram = shared_address(team.histogram);
    each([&](int j) {
      held[j] = code_of(held[j]);
      const uint64_t weight = weight_of(held[j]);
      add_shared_if(held[j], kLeastCode, histogram + ((kMostCode - held[j]) >> shift) * 8,
                    static_cast<uint32_t>(weight) & ((1u << Team::kSplit) - 1),
                    static_cast<uint32_t>(weight >> Team::kSplit));
    });
    const Team::Bin bin = team.find_bin([&](uint64_t all) { return all - part_of(all, kWhole - row.top_p); }, true);
    const uint32_t most = kMostCode - (bin.index << shift);
    const uint32_t least = most - ((1u << shift) - 1);
    const uint64_t unit = weight_of(least);
    bool is_equal = false;
    const Rank<Bits> last =
        resolve<true>(least, most, [](uint32_t code) { return weight_of(code); }, bin, unit > 0 ? unit : 1, is_equal);
    uint64_t own = 0;
    each([&](int j) {
      if (held[j] - least <= most - least && (is_equal ? place(j) < last.place() : last > rank(j))) held[j] = 0;
      held[j] = held[j] >= least ? held[j] : 0;
      own += weight_of(held[j]);
    });
    return own;
  }

  SSG_DEVICE int bins_log() const { return team.warps == 1 ? 8 : (team.warps == 2 ? 9 : 10); }

  // Among the tokens for which low <= held <= high, in descending order, of equal ones the last first, the one with which
  // the running weight reaches bin.rest. None of them weighs less than `unit`. Without `kPlace` the key alone is right.
  // `is_equal` becomes true if all of these have one key.
  template <bool kPlace, class WeightOf>
  SSG_DEVICE Rank<Bits> resolve(uint32_t low, uint32_t high, WeightOf&& weight, const Team::Bin& bin, uint64_t unit,
                                bool& is_equal) {
    if (bin.sum <= SampleShared::kFew * unit) {
      each([&](int j) {
        if (held[j] - low <= high - low) {
          const uint32_t n = claim_shared(candidate_count);
          store_shared(candidate_weights + n, weight(held[j]));
          store_shared(candidate_ranks + n, rank(j));
        }
      });
      return among_candidates(bin.rest);
    }
    Value most = R::value(R::kMinusInfinity);
    Value least = -most;
    each([&](int j) {
      if (held[j] - low <= high - low) {
        const Value mine = R::value(bits_at(place(j)));
        most = mine > most ? mine : most;
        least = mine < least ? mine : least;
      }
    });
    const auto highest = static_cast<Bits>(team.largest(R::key(R::bits_from(most))));
    auto lowest = static_cast<Bits>(~team.largest(static_cast<Bits>(~R::key(R::bits_from(least)))));
    is_equal = lowest == highest;
    uint64_t rest = bin.rest;
    lowest = team.descend(lowest, highest, rest, [&](auto&& add) {
      each([&](int j) {
        if (held[j] - low <= high - low) add(key(j), weight(held[j]));
      });
    });
    if (!kPlace) return {lowest, 0};
    return among_equals(low, high, weight, lowest, is_equal, rest);
  }

  // Each thread compares one candidate with all.
  SSG_DEVICE Rank<Bits> among_candidates(uint64_t rest) {
    barrier();
    const auto count = static_cast<int>(load_shared(candidate_count));
    SSG_UNROLL_BY(1)
    for (int c = team.thread; c < count; c += team.threads) {
      const Rank<Bits> mine = load_shared(candidate_ranks + c);
      uint64_t above = 0;
      SSG_UNROLL_BY(4)
      for (int i = 0; i < count; ++i)
        if (load_shared(candidate_ranks + i) > mine) above += load_shared(candidate_weights + i);
      if (above < rest && rest <= above + load_shared(candidate_weights + c)) store_shared(found, mine);
    }
    barrier();
    if (team.thread == 0) store_shared(candidate_count, uint64_t{0});
    return load_shared(found);
  }

  // Of the tokens with this key, which weigh the same and may be all of the bin, the first of the last ones that together reach `rest`.
  template <class WeightOf>
  SSG_DEVICE Rank<Bits> among_equals(uint32_t low, uint32_t high, WeightOf&& weight, Bits equal, bool are_all,
                                     uint64_t rest) {
    uint32_t count = 0;
    uint64_t each_weight = 0;
    each([&](int j) {
      if (held[j] - low <= high - low && (are_all || key(j) == equal)) {
        ++count;
        each_weight = weight(held[j]);
      }
    });
    each_weight = team.largest(each_weight);
    const Team::Sum ties = team.sum(count);
    const uint64_t first = ties.all - (rest + each_weight - 1) / each_weight;
    if (ties.before <= first && first < ties.before + count) {
      uint64_t number = ties.before;
      each([&](int j) {
        if (held[j] - low <= high - low && (are_all || key(j) == equal)) {
          if (number == first) store_shared(found, Rank<Bits>(equal, place(j)));
          ++number;
        }
      });
    }
    barrier();
    return load_shared(found);
  }
};

}  // namespace ssg::cuda

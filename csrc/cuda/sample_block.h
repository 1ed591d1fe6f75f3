// Sampling from rows that a block holds: a block draws a row, and a thread has up to 32 neighbouring tokens of it.
//
//  1. The logits come to shared memory as the numbers that they are.
//  2. Top-k: a histogram of how far logits lie below the largest shows where the k-th lies. What may stay is listed, in
//     the order of the vocabulary, and each thread takes its part of the list instead. Then the k-th is searched.
//  3. Logits become weights. Top-p: a histogram of their sums shows where it ends. There the last token is searched.
//  4. The thread in whose part the running weight passes the uniform number finds the token.
#pragma once

#include "sample_row.h"
#include "sample_search.h"

namespace ssg::cuda {

template <class S>
struct SampleBlock {
  using R = Row<S>;
  using Bits = typename R::Bits;
  using Value = typename R::Value;
  using Search = SampleSearch<S>;
  using Team = typename Search::Team;
  static constexpr int kOwn = 32;                               // tokens of a thread at most
  static constexpr int kStride = kOwn + 16 / sizeof(Value);     // so that the accesses of threads meet different banks
  static constexpr int kMost = 128 * kOwn;                      // tokens of a row
  static constexpr int kResident = sizeof(Value) == 8 ? 3 : 4;  // blocks of a multiprocessor, by its registers

  struct Shared {
    typename Search::Shared search;
    int32_t drawn;
    alignas(16) Value values[1];  // kStride for each thread; later the list
  };
  static int64_t shared_bytes(int threads) {
    return static_cast<int64_t>(sizeof(Shared) + sizeof(Value) * static_cast<size_t>(threads * kStride));
  }

  const R row;
  Team& team;
  Shared& shared;
  const int vocabulary;
  OwnTokens<Value> own;
  uint32_t codes[kOwn];  // of the weights of this thread's tokens
  // Of the tokens that this thread brought: those that are listed, and how many are listed before them.
  uint32_t listed = 0;
  int listed_before = 0;
  bool is_listed = false;

  static SSG_DEVICE void run(const SampleParams& p) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    Team team(shared.search.team);
    if (team.thread == 0) store_shared(&shared.search.count, 0u);
    SSG_UNROLL_BY(1)
    for (int64_t r = block_index(); r < p.rows; r += block_count()) {
      SampleBlock block(R(p, r), team, shared, static_cast<int>(p.call.vocabulary));
      const int token = block.draw();
      if (token >= 0 || (token == kNone && team.thread == 0)) p.call.out[r] = token;
      barrier();  // shared memory may be overwritten
    }
  }

  static constexpr int kNone = -1;       // the row has no answer
  static constexpr int kElsewhere = -2;  // another thread has it

  SSG_DEVICE SampleBlock(const R& row, Team& team, Shared& shared, int vocabulary)
      : row(row), team(team), shared(shared), vocabulary(vocabulary), own{shared.values, team.thread * kStride, kOwn} {}

  SSG_DEVICE int draw() {
    const Value largest = load();
    if (!row.has_answer(largest)) return kNone;
    const Bins<Value> bins(largest, row.scale, team.threads);
    Value least = R::minus_infinity();
    if (row.top_k > 0 && row.top_k < vocabulary) least = keep_top_k(bins);
    const Weigher<Value> weigher(largest, row.scale);
    const uint64_t weight = row.top_p > 0 ? keep_top_p(bins, weigher, least) : weigh<false>(bins, weigher, least);
    const auto weights = team.sum(weight);
    const uint64_t target = part_of(weights.all, row.uniform);
    if (weights.before <= target && target - weights.before < weight) {
      uint64_t running = weights.before;
      int drawn = own.first;
      each([&](int j) {
        running += weight_of(codes[j]);
        drawn += running <= target;
      });
      const auto place = static_cast<uint32_t>(drawn);
      if (!is_listed) return static_cast<int>(place / kStride * kOwn + place % kStride);
      store_shared(&shared.drawn, drawn);
    }
    return is_listed ? listed_token() : kElsewhere;
  }

 private:
  // Calls f(j) for this thread's tokens, and for up to three behind them.
  template <class F>
  SSG_DEVICE void each(F&& f) const {
    SSG_UNROLL
    for (int j = 0; j < kOwn; j += 4) {
      if (j >= own.count) break;
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) f(j + i);
    }
  }

  // Calls f(j, x) for the same tokens with their logits.
  template <class F>
  SSG_DEVICE void each_value(F&& f) const {
    SSG_UNROLL
    for (int j = 0; j < kOwn; j += 4) {
      if (j >= own.count) break;
      const Vec<Value, 4> four = own.four(j);
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) f(j + i, four.at[i]);
    }
  }

  // Brings the row to shared memory, and returns the largest logit, or NaN.
  SSG_DEVICE Value load() {
    constexpr int kAtOnce = 16 / sizeof(Bits);
    constexpr int kRuns = kOwn / kAtOnce;
    Value most = R::minus_infinity();
    if (vocabulary == kOwn * team.threads && row.is_aligned()) {
      using Run = Vec<Bits, kAtOnce>;
      using Stored = Vec<typename Row<Value>::Bits, 16 / sizeof(Value)>;
      const auto thread = static_cast<uint32_t>(team.thread);
      const auto threads = static_cast<uint32_t>(team.threads);
      const Run* from = reinterpret_cast<const Run*>(row.logits) + thread;
      Run runs[kRuns];
      SSG_UNROLL
      for (int j = 0; j < kRuns; ++j) runs[j] = load_once(from + j * threads);
      SharedAddress to = shared_address(shared.values + thread / kRuns * kStride + thread % kRuns * kAtOnce);
      SSG_UNROLL
      for (int j = 0; j < kRuns; ++j) {
        Stored stored[sizeof(Value) / sizeof(Bits)];
        SSG_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const Value value = R::value(runs[j].at[i]);
          most = larger(most, value);
          stored[i * sizeof(Value) / 16].at[i % (16 / sizeof(Value))] = bits_of(value);
        }
        SSG_UNROLL
        for (int i = 0; i < kAtOnce; i += 16 / sizeof(Value))
          store_shared(shared_pointer<Stored>(to) + i * sizeof(Value) / 16, stored[i * sizeof(Value) / 16]);
        to += threads / kRuns * static_cast<uint32_t>(kStride * sizeof(Value));
      }
    } else {
      constexpr int kUnderWay = 8;
      SharedAddress to = shared_address(shared.values + team.warp * kStride + team.lane);
      SSG_UNROLL_BY(1)
      for (int v = team.thread; v < kOwn * team.threads; v += kUnderWay * team.threads) {
        Bits bits[kUnderWay];
        SSG_UNROLL
        for (int i = 0; i < kUnderWay; ++i) {
          const int at = v + i * team.threads;
          bits[i] = row.bits(at < vocabulary ? at : vocabulary - 1);
        }
        SSG_UNROLL
        for (int i = 0; i < kUnderWay; ++i) {
          const Value value = v + i * team.threads < vocabulary ? R::value(bits[i]) : R::minus_infinity();
          most = larger(most, value);
          store_shared(shared_pointer<Value>(to), value);
          to += static_cast<uint32_t>(team.threads) / 32 * static_cast<uint32_t>(kStride * sizeof(Value));
        }
      }
    }
    using Order = Row<Value>;
    return Order::value(Order::bits_of_key(team.largest(Order::key(bits_of(most)))));
  }

  // Returns the k-th logit, or -inf where it weighs nothing; then nor do those below it.
  SSG_DEVICE Value keep_top_k(const Bins<Value>& bins) {
    Value x[kOwn];
    each_value([&](int j, Value value) { x[j] = value; });
    const SharedAddress histogram = shared_address(team.shared.low);
    SSG_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const uint32_t distance = bins.distance(x[j]);
      count_shared_if(distance, bins.end - 1, bins.at(distance, histogram));
    }
    const auto top_k = static_cast<uint32_t>(row.top_k);
    const auto bin = team.template find_bin<uint32_t>([=](uint32_t) { return top_k; });
    if (bin.sum == 0) return R::minus_infinity();

    const Value low = bins.below(bin.index);
    SSG_UNROLL
    for (int j = 0; j < kOwn; ++j) mark_unless(x[j], low, listed, 1u << j);
    const auto sum = team.sum(population(listed));
    const auto all = static_cast<int>(sum.all);
    if (all < vocabulary) {
      is_listed = true;
      listed_before = static_cast<int>(sum.before);
      SharedAddress to = shared_address(shared.values + listed_before);
      SSG_UNROLL
      for (int j = 0; j < kOwn; ++j) append_shared_unless(x[j], low, to);
      if (team.thread < 3) store_shared(shared.values + all + team.thread, R::minus_infinity());
      const int part = (all + 4 * team.threads - 1) / (4 * team.threads) * 4;
      own.first = team.thread * part;
      own.count = all - own.first < part ? all - own.first : part;
      barrier();
    }
    Search search{team, shared.search, bins, own};
    const bool may_be_few = bin.sum <= Search::kFew;
    return R::value(R::bits_of_key(
        search.template find<false>(bin.index, bin.rest, may_be_few, [](Value) { return uint64_t{1}; }).key()));
  }

  // Sets the codes of the weights; of logits below `least` they weigh nothing. Returns their sum, or adds them to the
  // histogram instead.
  template <bool kAdds>
  SSG_DEVICE uint64_t weigh(const Bins<Value>& bins, const Weigher<Value>& weigher, Value least) {
    const SharedAddress histogram = shared_address(team.shared.low);
    uint64_t sum = 0;
    each_value([&](int j, Value x) {
      const uint32_t distances = weigher.distances(x);
      codes[j] = code_of(x >= least ? distances : kFarthest);
      const uint64_t weight = weight_of(codes[j]);
      if (kAdds) {
        add_shared_if<Team::kHigh>(codes[j], kLeastCode, bins.at(bins.distance(x), histogram), weight);
      } else {
        sum += weight;
      }
    });
    return sum;
  }

  // The same, and those of tokens that top-p removes become 0. Returns the sum of what stays.
  SSG_DEVICE uint64_t keep_top_p(const Bins<Value>& bins, const Weigher<Value>& weigher, Value least) {
    weigh<true>(bins, weigher, least);
    const auto bin =
        team.template find_bin<uint64_t>([&](uint64_t all) { return all - part_of(all, kWhole - row.top_p); });
    Search search{team, shared.search, bins, own};
    const Rank<Bits> last = search.template find<true>(bin.index, bin.rest, true,
                                                       [&](Value x) { return x >= least ? weigher.weight(x) : 0; });
    Value kept = R::value(R::bits_of_key(last.key()));
    // Of the tokens equal to the last one, those before it go.
    const auto place = static_cast<int>(last.place());
    if (own.first < place && place < own.first + own.count) {
      own.each([&](Value x, int i) {
        if (x == kept && i < place) store_shared(shared.values + i, R::minus_infinity());
      });
    }
    if (own.first + own.count <= place) kept = Row<Value>::next(kept);
    uint64_t sum = 0;
    each_value([&](int j, Value x) {
      codes[j] = x >= kept ? codes[j] : 0;
      sum += weight_of(codes[j]);
    });
    return sum;
  }

  // The token that one thread drew, told by the thread that brought it.
  SSG_DEVICE int listed_token() const {
    barrier();
    const int number = load_shared(&shared.drawn) - listed_before;
    if (number < 0 || number >= static_cast<int>(population(listed))) return kElsewhere;
    uint32_t left = listed;
    SSG_UNROLL_BY(1)
    for (int i = 0; i < number; ++i) left &= left - 1;
    return team.thread * kOwn + static_cast<int>(population(~left & (left - 1)));
  }
};

}  // namespace ssg::cuda

// Which token of a bin is the k-th, or the last one that top-p keeps. Few tokens are ranked directly; many are searched by
// their keys, level by level.
#pragma once

#include "sample_row.h"
#include "sample_team.h"

namespace ssg::cuda {

// The tokens of a thread: neighbours in shared memory. A token's place is its index there, and places have the order of
// the vocabulary.
template <class Value>
struct OwnTokens {
  Value* values;
  int first;
  int count;

  // Those from j on.
  SSG_DEVICE Vec<Value, 4> four(int j) const {
    constexpr int kAtOnce = 16 / sizeof(Value);
    Vec<Value, 4> four;
    SSG_UNROLL
    for (int i = 0; i < 4; i += kAtOnce) {
      const auto some = load_shared(reinterpret_cast<const Vec<Value, kAtOnce>*>(values + first + j + i));
      SSG_UNROLL
      for (int k = 0; k < kAtOnce; ++k) four.at[i + k] = some.at[k];
    }
    return four;
  }

  // Calls f(value, place) for each, and for up to three behind them. A loop, for what is long or rare.
  template <class F>
  SSG_DEVICE void each(F&& f) const {
    SSG_UNROLL_BY(1)
    for (int j = 0; j < count; j += 4) {
      const Vec<Value, 4> some = four(j);
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) f(some.at[i], first + j + i);
    }
  }
};

// Bins of logits by how far they lie below the largest, as a float: `threads` bins in each of eight octaves, of which the
// first begins at the largest. So bins suit rows of every deviation. What lies beyond them weighs nothing.
template <class Value>
struct Bins {
  Value origin;  // above the largest by an eighth of a nat at most, or by rounding
  int shift;
  uint32_t first;  // number of the bin of the largest
  uint32_t end;    // the distance from which on there is no bin

  SSG_DEVICE Bins(Value largest, float scale, int threads) : shift(threads == 128 ? 16 : (threads == 64 ? 17 : 18)) {
    const float unit = float_of((251u << 23) - (bits_of(scale) & 0x7f800000u));
    origin = largest + (static_cast<Value>(unit) + (largest < 0 ? -largest : largest) * Value(0x1p-21));
    first = distance(largest) >> shift;
    end = (first + 8 * static_cast<uint32_t>(threads)) << shift;
  }
  SSG_DEVICE uint32_t distance(Value x) const { return bits_of(static_cast<float>(origin - x)); }

  // Where a word for each bin lies.
  SSG_DEVICE SharedAddress at(uint32_t distance, SharedAddress words) const {
    return multiply_add(distance >> shift, 4u, words - first * 4);
  }

  struct Range {
    uint32_t low;
    uint32_t width;
    SSG_DEVICE bool has(uint32_t distance) const { return distance - low < width; }
  };
  SSG_DEVICE Range range(uint32_t bin) const { return {(first + bin) << shift, 1u << shift}; }

  // Not more than any logit of this bin, nor of those before it.
  SSG_DEVICE Value below(uint32_t bin) const {
    const float behind = float_of((first + bin + 1) << shift);
    const Value low = origin - static_cast<Value>(behind * 1.000001f);
    return low == low ? low : Value(-__builtin_huge_val());
  }
};

template <class S>
struct SampleSearch {
  using R = Row<S>;
  using Bits = typename R::Bits;
  using Key = typename R::Key;
  using Value = typename R::Value;
  using Team = SampleTeam<4, 20>;
  using Own = OwnTokens<Value>;
  static constexpr uint32_t kFew = 128;

  struct Shared {
    typename Team::Shared team;
    Rank<Bits> ranks[kFew];  // of the candidates
    Rank<Bits> found;
    uint64_t weights[kFew];
    int32_t places[kFew];
    uint32_t count;
  };

  Team& team;
  Shared& shared;
  const Bins<Value>& bins;
  const Own& own;

  // Among the tokens of a bin, in descending order, of equal ones the last first, the one with which the running weight
  // reaches `rest`. Without kPlace its key alone is right. All threads must have seen a barrier since they set `count`.
  template <bool kPlace, class WeightOf>
  SSG_DEVICE Rank<Bits> find(uint32_t bin, uint64_t rest, bool may_be_few, WeightOf&& weight_of) {
    const auto range = bins.range(bin);
    if (may_be_few) {
      gather(range);
      barrier();
      const uint32_t count = load_shared(&shared.count);
      if (count <= kFew) return among(count, rest, weight_of);
    }
    return by_keys<kPlace>(range, rest, weight_of);
  }

 private:
  // Notes the places of the tokens in a bin, unless there are more than a few.
  SSG_DEVICE void gather(const typename Bins<Value>::Range& range) {
    uint32_t n = 0;
    SSG_UNROLL_BY(1)
    for (int j = 0; j < own.count && n < kFew; j += 4) {
      const Vec<Value, 4> some = own.four(j);
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (range.has(bins.distance(some.at[i]))) {
          n = claim_shared(&shared.count);
          if (n < kFew) store_shared(shared.places + n, own.first + j + i);
        }
      }
    }
  }

  // Each thread compares one candidate with all.
  template <class WeightOf>
  SSG_DEVICE Rank<Bits> among(uint32_t count, uint64_t rest, WeightOf&& weight_of) {
    const auto thread = static_cast<uint32_t>(team.thread);
    const auto threads = static_cast<uint32_t>(team.threads);
    SSG_UNROLL_BY(1)
    for (uint32_t c = thread; c < count; c += threads) {
      const int place = load_shared(shared.places + c);
      const Value x = load_shared(own.values + place);
      store_shared(shared.ranks + c, Rank<Bits>(R::key(R::bits_from(x)), static_cast<uint32_t>(place)));
      store_shared(shared.weights + c, weight_of(x));
    }
    barrier();
    SSG_UNROLL_BY(1)
    for (uint32_t c = thread; c < count; c += threads) {
      const Rank<Bits> mine = load_shared(shared.ranks + c);
      uint64_t above = 0;
      SSG_UNROLL_BY(4)
      for (uint32_t i = 0; i < count; ++i)
        if (load_shared(shared.ranks + i) > mine) above += load_shared(shared.weights + i);
      if (above < rest && rest <= above + load_shared(shared.weights + c)) store_shared(&shared.found, mine);
    }
    if (thread == 0) store_shared(&shared.count, 0u);
    barrier();
    return load_shared(&shared.found);
  }

  template <bool kPlace, class WeightOf>
  SSG_DEVICE Rank<Bits> by_keys(const typename Bins<Value>::Range& range, uint64_t rest, WeightOf&& weight_of) {
    Value least = -R::minus_infinity();
    Value most = R::minus_infinity();
    own.each([&](Value x, int) {
      const bool is_there = range.has(bins.distance(x));
      most = larger(most, is_there ? x : R::minus_infinity());
      least = smaller(least, is_there ? x : -R::minus_infinity());
    });
    const auto high = static_cast<Bits>(team.largest(Key{R::key(R::bits_from(most))}));
    barrier();
    if (team.thread == 0) store_shared(&shared.count, 0u);
    auto low = static_cast<Bits>(~team.largest(Key{static_cast<Bits>(~R::key(R::bits_from(least)))}));
    low = team.descend(low, high, rest, [&](auto&& add) {
      own.each([&](Value x, int) {
        if (range.has(bins.distance(x))) add(R::key(R::bits_from(x)), weight_of(x));
      });
    });
    if (!kPlace) return {low, 0};
    return among_equals(low, rest, weight_of(R::value(R::bits_of_key(low))));
  }

  // Of the tokens with this key and weight, the first of the last ones that together reach `rest`.
  SSG_DEVICE Rank<Bits> among_equals(Bits key, uint64_t rest, uint64_t weight) {
    const Value value = R::value(R::bits_of_key(key));
    uint32_t count = 0;
    own.each([&](Value x, int) { count += x == value; });
    const auto ties = team.sum(count);
    const auto first = static_cast<uint32_t>(ties.all - (rest + weight - 1) / weight);
    if (ties.before <= first && first < ties.before + count) {
      uint32_t number = ties.before;
      own.each([&](Value x, int place) {
        if (x != value) return;
        if (number == first) store_shared(&shared.found, Rank<Bits>(key, static_cast<uint32_t>(place)));
        ++number;
      });
    }
    barrier();
    return load_shared(&shared.found);
  }
};

}  // namespace ssg::cuda

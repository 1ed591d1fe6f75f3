// Sampling from rows that a block cannot hold: every pass reads the logits again.
#pragma once

#include "sample_row.h"
#include "sample_team.h"

namespace ssg::cuda {

template <class S>
struct SampleLong {
  using R = Row<S>;
  using Bits = typename R::Bits;
  using Value = typename R::Value;

  using Key = typename R::Key;
  // Sums of weights of 2^31 tokens take all of 64 bits.
  using Team = SampleTeam<8, 32>;

  const R row;
  Team& team;
  const int64_t vocabulary;

  static SSG_DEVICE void run(const SampleParams& p) {
    Team team(*reinterpret_cast<typename Team::Shared*>(shared_memory()));
    SSG_UNROLL_BY(1)
    for (int64_t r = block_index(); r < p.rows; r += block_count()) {
      SampleLong{R(p, r), team, p.call.vocabulary}.draw(p.call.out + r);
      barrier();  // shared memory may be overwritten
    }
  }

  template <class F>
  SSG_DEVICE void for_each(F&& f) const {
    SSG_UNROLL_BY(4)
    for (int64_t v = team.thread; v < vocabulary; v += team.threads) f(row.bits(v));
  }

  SSG_DEVICE void draw(int64_t* out) {
    Bits low = static_cast<Bits>(~Bits{0});
    Bits high = 0;
    for_each([&](Bits bits) {
      const Bits key = R::key(bits);
      low = key < low ? key : low;
      high = key > high ? key : high;
    });
    low = static_cast<Bits>(~team.largest(Key{static_cast<Bits>(~low)}));
    barrier();
    high = static_cast<Bits>(team.largest(Key{high}));
    const Value largest = R::value(R::bits_of_key(high));
    // The key of a NaN lies beyond those of the infinities.
    if (low < R::key(R::kMinusInfinity) || !row.has_answer(largest)) {
      if (team.thread == 0) *out = -1;
      return;
    }
    const Weigher<Value> weigher(largest, row.scale);
    const auto weight = [&](Bits bits) { return weigher.weight(R::value(bits)); };
    if (row.top_k > 0 && row.top_k < vocabulary) {
      auto rest = static_cast<uint64_t>(row.top_k);
      low = team.descend(low, high, rest, [&](auto&& add) { for_each([&](Bits bits) { add(R::key(bits), 1); }); });
    }
    uint64_t ties = ~uint64_t{0};  // how many tokens with the key `low` stay; they are the last ones
    if (row.top_p > 0) {
      uint64_t own = 0;
      for_each([&](Bits bits) {
        if (R::key(bits) >= low) own += weight(bits);
      });
      const uint64_t all = team.sum(own).all;
      uint64_t rest = all - part_of(all, kWhole - row.top_p);
      low = team.descend(low, high, rest,
                         [&](auto&& add) { for_each([&](Bits bits) { add(R::key(bits), weight(bits)); }); });
      const uint64_t each = weight(R::bits_of_key(low));
      ties = (rest + each - 1) / each;
    }
    choose(low, ties, weight, out);
  }

  // A warp adds up a run of columns. The warp in whose run the target lies walks through it.
  template <class W>
  SSG_DEVICE void choose(Bits low, uint64_t ties, W&& weight, int64_t* out) {
    const int64_t share = (vocabulary + team.threads - 1) / team.threads * 32;
    const int64_t begin = team.warp * share < vocabulary ? team.warp * share : vocabulary;
    const int64_t end = begin + share < vocabulary ? begin + share : vocabulary;
    uint64_t above = 0;
    uint64_t equal = 0;
    for (int64_t v = begin + team.lane; v < end; v += 32) {
      const Bits bits = row.bits(v);
      const Bits key = R::key(bits);
      if (key > low) above += weight(bits);
      equal += key == low;
    }
    // The scan runs over threads, and the lanes of a warp hold the columns in turn, so a warp counts as one.
    const uint64_t warp_above = shuffle(team.scan_warp(above), 31);
    const uint64_t warp_equal = shuffle(team.scan_warp(equal), 31);
    const uint64_t each = weight(R::bits_of_key(low));
    barrier();
    const auto seen = team.sum(team.lane == 0 ? warp_equal : 0);
    const uint64_t seen_before = shuffle(seen.before, 0);
    const uint64_t gone = seen.all > ties ? seen.all - ties : 0;  // the first of the tokens with that key go
    const uint64_t left = gone > seen_before ? gone - seen_before : 0;
    const uint64_t own = warp_above + (warp_equal > left ? warp_equal - left : 0) * each;
    barrier();
    const auto weights = team.sum(team.lane == 0 ? own : 0);
    uint64_t before = shuffle(weights.before, 0);
    const uint64_t target = part_of(weights.all, row.uniform);
    if (target < before || target - before >= own) return;
    uint64_t skipped = seen_before;
    SSG_UNROLL_BY(1)
    for (int64_t v = begin + team.lane; v - team.lane < end; v += 32) {
      const Bits bits = v < end ? row.bits(v) : R::kMinusInfinity;
      const Bits key = R::key(bits);
      const bool is_equal = v < end && key == low;
      const uint64_t rank = skipped + team.scan_warp(uint64_t{is_equal});  // 1 for the first
      const uint64_t each_weight = v < end && (key > low || (is_equal && rank > gone)) ? weight(bits) : 0;
      const uint64_t running = before + team.scan_warp(each_weight);
      if (running > target && running - each_weight <= target) *out = v;
      before = shuffle(running, 31);
      skipped = shuffle(rank, 31);
      if (before > target) return;
    }
  }
};

}  // namespace ssg::cuda

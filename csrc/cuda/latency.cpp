#include "latency.h"

#include <algorithm>

#include "model.h"

namespace ssg::cuda {
namespace {

// Cycles until a load has come from device memory, and by how much longer one from the second-level cache takes than one
// from the first (bench/ptx/latency.py).
constexpr double kMemory = 479;
constexpr double kMiss = 263 - 41;

Latency with_misses(double later, double misses) { return {later + misses * kMiss, later}; }

double rounds(int64_t work, int64_t at_once) { return static_cast<double>(ceil_div(work, at_once)); }

}  // namespace

// A warp loads its tokens of the map, then takes its items. Their coefficients have come to the first-level cache
// meanwhile.
Latency latency_of(const DenseStep& dense, const GuidedCall& call, const LaunchPlan& plan) {
  const int64_t quarter = dense.step.h.in_even() * dense.step.w.in_even();
  const double maps = rounds(quarter, plan.warps);
  const double items = rounds(dense.items, plan.warps);
  const double steps = items * static_cast<double>(quarter);
  return with_misses(200 + maps * (70 + kMemory * call.sources) + items * 400 + steps * 66,
                     0.5 + maps * std::min(1.0, plan.warps / 2.0));
}

// The map, the coefficients where they are staged, and then for each group its logits and the tiles of both contractions.
Latency latency_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan) {
  const int64_t threads = 32 * plan.warps;
  const int64_t team = plan.warps / plan.column_warps;  // warps on the same columns
  const int64_t runs = std::max<int64_t>(1, plan.columns() * item_bytes(call.scalar) / 16);
  const int64_t terms = step.term_count();
  const Sizes sizes = sizes_of(step, plan);
  const double maps = rounds(step.h.in_even() * step.w.in_even() * runs, threads);
  const double groups = rounds(ceil_div(step.h.pairs(), plan.group_pairs), plan.splits);
  const double fetches = rounds(plan.group_pairs * sides(step.h) * step.w.out * runs, threads) * call.sources;
  // Of a contraction: its tiles and steps, and the loads that miss where it reads its coefficients through the cache.
  double tiles = 0;
  double steps = 0;
  double misses = 0;
  // The loop takes four steps at once, then one, of which two lie in a sector.
  const auto waits_of = [](int64_t count) { return static_cast<double>(count / 4 + (count % 4 + 1) / 2); };
  const auto contract = [&](int64_t rows, int64_t maps, int64_t even, int64_t odd, int lanes, double times_read) {
    const Cover cover = cover_of(lanes);
    const double turns = groups * rounds(warp_tiles(rows, maps, cover), team);
    tiles += turns;
    steps += turns * static_cast<double>(even + odd);
    misses += times_read * rounds(ceil_div(rows, cover.rows), team) * (waits_of(even) + waits_of(odd));
  };
  if (!step.one_row)
    contract(sizes.first_rows, sizes.first_maps, step.h.in_even(), step.h.in_odd(), plan.lanes_h, groups);
  contract(sizes.second_rows, sizes.second_maps, terms * step.w.in_even(), terms * step.w.in_odd(), plan.lanes_w, 1);
  double later =
      maps * (360 + kMemory * call.sources) + groups * 570 + groups * fetches * 46 + tiles * 515 + steps * 20;
  if (stages_coefficients(plan.tile.thread_columns)) {
    misses = 0;
    for (const int64_t count : coefficients_of(step, plan)) misses += rounds(count, 4 * threads);
    later += misses * 140;
  }
  return with_misses(later, misses);
}

namespace {

// Cycles of the MMA engine: of a block, of its items, of the rounds in which an item loads its map, of its groups, of a
// group's tiles and steps of the first contraction, and of its steps of the second; and loads that miss the first-level
// cache, of a round and of a step.
struct TensorWaits {
  double block;
  double item;
  double round;
  double group;
  double tile;
  double first;
  double second;
  double round_misses;
  double step_misses;
};
// Of kernels with run-time sizes, whose logits have one part or two, and of those for a known size.
constexpr TensorWaits kTensorWaits[] = {{234, 302, 524, 375, 159, 100, 147, 1.8, 0.4},
                                        {359, 551, 219, 560, 75, 162, 143, 3.7, 0.2},
                                        {264, 0, 368, 683, 0, 99, 0, 0.6, 0.15}};

}  // namespace

Latency latency_of(const TensorSizes& sizes, const TensorLayout& layout, const GuidedCall& call, const LaunchPlan& plan,
                   int parts, int64_t items) {
  const TensorWaits& waits = kTensorWaits[plan.tile.in != 0 ? 2 : parts - 1];
  const int64_t at_once = (parts == 2 ? 2 : 4) * kMmaThreads / (4 * plan.tile.thread_columns);  // blocks of 8 rows
  const double maps = rounds(sizes.in_w * ceil_div(sizes.in_h, 8), at_once);
  const double groups = rounds(layout.groups, plan.splits);
  const double tiles = rounds(layout.coarse, kMmaWarps) * layout.first_tiles;
  const double first = tiles * layout.first_steps * layout.parities;
  const double second = layout.row_blocks * layout.second_tiles * layout.second_steps * layout.parities;
  const double item = waits.item + maps * (waits.round + kMemory * call.sources) +
                      groups * (waits.group + tiles * waits.tile + first * waits.first + second * waits.second);
  return with_misses(waits.block + static_cast<double>(items) * item,
                     maps * waits.round_misses + groups * (first + second) * waits.step_misses);
}

}  // namespace ssg::cuda

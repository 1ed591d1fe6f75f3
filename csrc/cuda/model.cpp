#include "model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "dense_step.h"
#include "latency.h"
#include "tensor_step.h"

namespace ssg::cuda {

Machine machine_of(int capability, int multiprocessors) {
  Machine machine;
  machine.capability = capability;
  machine.multiprocessors = multiprocessors;
  const bool large = capability / 10 == 9 || capability / 10 == 10;
  const int kilobytes = large ? 228 : capability == 80 ? 164 : 100;
  machine.shared_per_multiprocessor = kilobytes << 10;
  machine.shared_per_block = (kilobytes - 1) << 10;
  return machine;
}

Sizes sizes_of(const Step& step, const LaunchPlan& plan) {
  return {plan.group_pairs * step.term_count(), step.w.in, step.w.pairs(),
          step.one_row ? 1 : plan.group_pairs * sides(step.h)};
}

std::array<int64_t, 2> coefficients_of(const Step& step, const LaunchPlan& plan) {
  const auto padded = [](int64_t count) { return ceil_div(count, kFmaRows) * kFmaRows; };
  const int64_t groups = ceil_div(step.h.pairs(), plan.group_pairs);
  return {step.slots() * padded(step.w.pairs()),
          step.one_row ? 0 : groups * step.h.in * padded(plan.group_pairs * step.term_count())};
}

SharedMemory shared_memory_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan) {
  const int64_t bytes = call.scalar == Scalar::float64 ? 8 : 4;
  const int64_t columns = plan.columns();
  const int64_t groups = ceil_div(step.h.pairs(), plan.group_pairs);
  const int64_t rows = plan.group_pairs * sides(step.h);
  SharedMemory memory;
  int64_t at = step.h.in * step.w.in * columns * bytes;
  memory.slots_at = at;
  if (!step.one_row) at += rows * step.slots() * columns * bytes;
  memory.coefficients_at = at;
  if (stages_coefficients(plan.tile.thread_columns))
    for (const int64_t count : coefficients_of(step, plan)) at += count * bytes;
  memory.stage_at = at;
  if (call.current[0].data != nullptr)
    memory.stage_bytes = call.sources * rows * step.w.out * columns * item_bytes(call.scalar);
  memory.bytes = at + memory.stage_bytes * (groups > plan.splits ? 2 : 1);
  return memory;
}

namespace {

// Longer axes take the direct form, so that block indices and the products of Divisor stay below 2^31.
constexpr int64_t kLongestAxis = 1 << 12;

// Of one multiprocessor and cycle: bytes of device memory and of the second-level cache, float16 multiply-adds of the
// tensor cores, and float64 instructions of a warp.
struct Figures {
  double bytes;
  double cache;
  double products;
  double doubles;
};

Figures figures_of(const Machine& machine) {
  switch (machine.capability / 10) {
    case 8: return machine.capability == 80 ? Figures{10.5, 26.3, 1024.0, 1.0} : Figures{4.0, 11.3, 512.0, 1.0 / 16};
    case 9: return {18.5, 23.7, 1270.0, 2.0};
    case 10: return {25.5, 36.5, 1270.0, 2.0};
    default: return {4.0, 14.7, 256.0, 1.0 / 16};
  }
}

// What a block takes: instructions of warps, cycles of the unit that multiplies matrices or float64, and passes through
// the banks of shared memory. The constants below are fitted to the executed kernels: bench/ptx/ranking.py says how well.
struct Counts {
  double instructions = 0.0;
  double products = 0.0;
  double wavefronts = 0.0;
};

// How many quarter warps of the FMA engine lie along the rows of coefficients: as many as waste least.
int best_lanes(int64_t rows, int64_t maps) {
  int best = 1;
  for (int lanes : {1, 2, 4})
    if (warp_tiles(rows, maps, cover_of(lanes)) < warp_tiles(rows, maps, cover_of(best))) best = lanes;
  return best;
}

Counts fma_counts(const Step& step, const GuidedCall& call, const LaunchPlan& plan, const Figures& figures) {
  const Sizes sizes = sizes_of(step, plan);
  const double groups = static_cast<double>(ceil_div(step.h.pairs(), plan.group_pairs)) / plan.splits;
  const double bytes = call.scalar == Scalar::float64 ? 8 : 4;
  const double columns = plan.tile.thread_columns;
  const double width = static_cast<double>(plan.columns());
  const double first = step.one_row ? 0.0
                                    : groups * plan.column_warps *
                                          warp_tiles(sizes.first_rows, sizes.first_maps, cover_of(plan.lanes_h));
  const double second =
      groups * plan.column_warps * warp_tiles(sizes.second_rows, sizes.second_maps, cover_of(plan.lanes_w));
  const double k = first * static_cast<double>(step.h.in) + second * static_cast<double>(step.slots());
  const double map = static_cast<double>(step.h.in * step.w.in) * width / 32;
  const double slots = step.one_row ? 0.0 : groups * static_cast<double>(sizes.second_maps * step.slots()) * width / 32;
  const double outputs = static_cast<double>(step.h.out * step.w.out) * width / 32 / plan.splits;
  const double more = call.sources - 1;
  Counts counts;
  counts.instructions = plan.warps * 240.0 + k * (5.1 + 3.8 * columns) + (first + second) * (190 + 15 * columns) +
                        map * (10.3 + 5 * more) + outputs * ((item_bytes(call.scalar) >= 4 ? 33.5 : 26.0) + 10 * more);
  counts.wavefronts = (k * (3.1 + 1.9 * columns) + slots * 5.1 + map * 3.5 + outputs * 2.0 * (1 + more)) * bytes / 4;
  if (bytes == 8) counts.products = k * kFmaRows * columns / figures.doubles;
  return counts;
}

// Cycles of one multiprocessor that a block's memory traffic takes: what cannot be avoided, of which `load` is the map,
// and all that it asks the second-level cache for.
struct Traffic {
  double load;
  double memory;
  double cache;
};

Traffic traffic_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan, const Figures& figures) {
  const double run = static_cast<double>(std::min<int64_t>(plan.columns(), call.vocabulary) * item_bytes(call.scalar));
  const double sources = static_cast<double>(call.sources);
  const double map = sources * static_cast<double>(step.h.in * step.w.in) * run;
  const double stream = ((call.current[0].data != nullptr ? sources : 0.0) + 1.0) *
                        static_cast<double>(step.h.out * step.w.out) * run / plan.splits;
  const double sectors = std::max(1.0, 32 / run);
  // Every split reads the map: the first one from memory, the others from the second-level cache, at half the cost.
  const double load = map * (1.0 / plan.splits + (1 - 1.0 / plan.splits) / 2);
  return {load / figures.bytes, (load + stream) / figures.bytes, (map + stream) * sectors / figures.cache};
}

// The time of a launch: what binds, and a little of what does not, so that of plans which one thing stops the lightest
// is best. `items`: strips in their splits, one after the other in a block.
void predict(const Step& step, const GuidedCall& call, const Machine& machine, const Counts& counts, double items,
             const Latency& latency, LaunchPlan& plan) {
  const Figures figures = figures_of(machine);
  const Traffic traffic = traffic_of(step, call, plan, figures);
  const double blocks = static_cast<double>(plan.blocks) / machine.multiprocessors;
  // The fullest multiprocessor decides, but for memory and its cache, which all share.
  const double fullest = std::ceil(blocks);
  const double together = std::min<double>(plan.resident, fullest);
  plan.arithmetic = fullest * std::max({counts.instructions / 3, counts.products, counts.wavefronts});
  plan.traffic = blocks * items * std::max(traffic.memory, traffic.cache);
  // A block that is alone waits for its map; with another one beside it, that one works meanwhile. The latency contains
  // that load.
  const double waits = together > 1 ? 0.0 : blocks * items * traffic.load;
  plan.latency = latency.first + (std::ceil(fullest / together) - 1) * latency.later;
  plan.cycles = std::max(waits + std::max(plan.arithmetic, plan.traffic), plan.latency) +
                0.02 * (plan.arithmetic + plan.traffic + plan.latency);
}

bool complete_dense(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  const std::optional<DenseStep> dense = dense_step(step, call.scalar);
  if (!dense) return false;
  const bool is_double = call.scalar == Scalar::float64;
  const int64_t inputs = step.h.in * step.w.in;
  const int64_t quarter = dense->step.h.in_even() * dense->step.w.in_even();
  plan.warps = static_cast<int>(std::min<int64_t>({plan.warps, std::max(dense->items, quarter), kMostDenseWarps}));
  plan.shared_bytes = inputs * plan.columns() * (is_double ? 8 : 4);
  plan.blocks = ceil_div(call.vocabulary, plan.columns()) * call.batch;
  if (plan.shared_bytes > machine.shared_per_block || plan.blocks > INT32_MAX) return false;
  plan.resident = static_cast<int>(
      std::min<int64_t>({kMostWarps / plan.warps, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024), 16}));

  const double sources = static_cast<double>(call.sources);
  const auto at_once = static_cast<double>(dense->at_once);
  const auto items = static_cast<double>(dense->items);
  const double map = static_cast<double>(quarter) * (32 + 12 * sources);
  const double item = static_cast<double>(inputs) * (3.25 + at_once) + 50 + at_once * 4 * (9.5 + 6 * sources);
  Counts counts;
  counts.instructions = plan.warps * 110.0 + map + items * item;
  if (is_double) counts.products = items * static_cast<double>(inputs) * at_once / figures_of(machine).doubles;
  predict(step, call, machine, counts, 1.0, latency_of(*dense, call, plan), plan);
  return true;
}

// Instructions of the MMA engine with run-time sizes, whose logits have one part or two: of an item, of a unit of its map,
// of a tile of sums, of 16 k of the first contraction, of a tile of the second, and of its 16 k. Those with two numbers
// are for a strip of any width, and for each eight columns.
struct TensorCosts {
  double item;
  double unit[2];
  double sums;
  double first[2];
  double second[2];
  double slots[2];
};
constexpr TensorCosts kTensorCosts[] = {{2500, {17, 20}, 66, {13, 3.4}, {61, 16}, {11, 8.2}},
                                        {1700, {40, 8.4}, 57, {7.4, 12.6}, {28, 37.6}, {22, 0}}};

// Of an item of the MMA engine, a strip in one of its splits.
Counts tensor_counts(const TensorSizes& sizes, const TensorLayout& layout, const LaunchPlan& plan, int parts,
                     const GuidedCall& call, const Figures& figures) {
  const double tiles = plan.tile.thread_columns / 2.0;
  const double groups = static_cast<double>(layout.groups) / plan.splits;
  const double sides = layout.parities;
  const double windows = sizes.windows ? 1.0 : 0.0;
  const double more = call.sources - 1;
  const double units = sizes.in_w * std::ceil(sizes.in_h / 8.0) * 8 * tiles / 32;
  const double sums = layout.first_tiles * sides + windows;  // tiles of 16 rows of slots
  const double first = layout.coarse * groups;
  const double first_steps = first * (layout.first_tiles * sides * layout.first_steps + windows);  // of 16 k
  const double second = static_cast<double>(sizes.out_h) / plan.splits * layout.second_tiles;
  const double second_steps = second * sides * layout.second_steps;
  const double values = second * 4 * sides * tiles;  // of a thread
  Counts counts;
  if (plan.tile.in != 0) {
    counts.instructions = 150 + units * (parts == 2 ? 38 : 30) * (1 + 0.5 * more) +
                          first * (12 + sums * tiles * 5 + layout.first_tiles * (sides - 1) * tiles * 8 +
                                   4 * (sums + (layout.first_tiles - 1) * 2)) +
                          (first_steps * (parts + 1 + parts / 2.0) + second_steps * 4) * tiles + second * 20 +
                          values * ((parts == 2    ? 4.5
                                     : sizes.folds ? 5.0
                                                   : 10.0) +
                                    5 * more);
    if (sizes.folds) counts.instructions *= 1.33;
  } else {
    const TensorCosts& costs = kTensorCosts[parts - 1];
    const auto of = [tiles](const double (&cost)[2]) { return cost[0] + cost[1] * tiles; };
    counts.instructions = costs.item + 200 * groups + units * (of(costs.unit) + 30 * more) + first * sums * costs.sums +
                          first_steps * of(costs.first) + second * of(costs.second) + second_steps * of(costs.slots) +
                          values * 5 * more;
  }
  counts.products =
      ((first_steps * (parts + 1) + second_steps * 3) * 2048 + first * sums * 1024) * tiles / figures.products;
  counts.wavefronts = units * parts * 4 + ((first_steps * parts + second_steps * 2) * 2 + first * sums * 4) * tiles;
  return counts;
}

bool complete_tensor(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  const int parts = parts_of(item_bytes(call.scalar), call.sources);
  if (!exists(plan.tile, item_bytes(call.scalar), parts)) return false;
  const std::optional<TensorStep> tensor = tensor_step(step, plan.tile);
  if (!tensor) return false;
  const TensorLayout layout = tensor_layout(tensor->sizes, parts, plan.tile.thread_columns / 2);
  plan.warps = kMmaWarps;
  plan.column_warps = 1;
  plan.group_pairs = 8 * layout.row_blocks;
  plan.shared_bytes = layout.bytes;
  if (plan.shared_bytes > machine.shared_per_block || plan.splits > layout.groups) return false;
  const int64_t by_registers = plan.tile.in > 32 ? 1 : 2;
  plan.resident =
      static_cast<int>(std::min(by_registers, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024)));
  const int64_t items = ceil_div(call.vocabulary, plan.columns()) * plan.splits * call.batch;
  const int64_t at_once = static_cast<int64_t>(plan.resident) * machine.multiprocessors;
  const int64_t per_block = ceil_div(items, at_once);
  plan.blocks = ceil_div(items, per_block);
  if (plan.blocks > INT32_MAX || items / per_block > INT32_MAX || per_block > INT32_MAX) return false;

  Counts counts = tensor_counts(tensor->sizes, layout, plan, parts, call, figures_of(machine));
  const auto in_turn = static_cast<double>(per_block);
  counts.instructions = counts.instructions * in_turn + 2000;  // a block sets itself up once
  counts.products *= in_turn;
  counts.wavefronts *= in_turn;
  const Latency latency = latency_of(tensor->sizes, layout, call, plan, parts, per_block);
  predict(step, call, machine, counts, in_turn, latency, plan);
  return true;
}

}  // namespace

bool complete(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  if (std::max({step.h.out, step.w.out, step.h.in, step.w.in}) > kLongestAxis) return false;
  if (plan.tile.engine == Engine::mma) return complete_tensor(step, call, machine, plan);
  if (plan.tile.engine == Engine::dense) return complete_dense(step, call, machine, plan);
  if (!exists(plan.tile, item_bytes(call.scalar), 2)) return false;
  plan.shared_bytes = shared_memory_of(step, call, plan).bytes;
  if (plan.shared_bytes > machine.shared_per_block) return false;
  const int64_t groups = ceil_div(step.h.pairs(), plan.group_pairs);
  if (plan.splits > groups || plan.warps % plan.column_warps != 0) return false;
  plan.blocks = ceil_div(call.vocabulary, plan.columns()) * plan.splits * call.batch;
  if (plan.blocks > INT32_MAX) return false;
  plan.resident = static_cast<int>(
      std::min<int64_t>(kMostWarps / plan.warps, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024)));
  if (plan.resident < 1) return false;
  const Sizes sizes = sizes_of(step, plan);
  plan.lanes_h = best_lanes(sizes.first_rows, sizes.first_maps);
  plan.lanes_w = best_lanes(sizes.second_rows, sizes.second_maps);
  predict(step, call, machine, fma_counts(step, call, plan, figures_of(machine)), 1.0, latency_of(step, call, plan),
          plan);
  return true;
}

}  // namespace ssg::cuda

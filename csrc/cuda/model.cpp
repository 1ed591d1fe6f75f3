#include "model.h"

#include <algorithm>
#include <cmath>

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
  if (stages_coefficients(plan.tile.engine, plan.tile.thread_columns)) {
    const auto padded = [](int64_t count) { return ceil_div(count, kFmaRows) * kFmaRows; };
    at += step.slots() * padded(step.w.pairs()) * bytes;
    if (!step.one_row) at += groups * step.h.in * padded(plan.group_pairs * step.term_count()) * bytes;
  }
  memory.stage_at = at;
  if (call.current[0].data != nullptr)
    memory.stage_bytes = call.sources * rows * step.w.out * columns * item_bytes(call.scalar);
  memory.bytes = at + memory.stage_bytes * (groups > plan.splits ? 2 : 1);
  return memory;
}

namespace {

// Longer axes take the direct form, so that block indices and the products of Divisor stay below 2^31.
constexpr int64_t kLongestAxis = 1 << 12;

// Of one multiprocessor: bytes of device memory and float32 multiply-adds per cycle, cycles per tf32 m16n8k8
// instruction.
struct Figures {
  double bytes;
  double multiply_adds;
  double mma;
};

Figures figures_of(const Machine& machine) {
  switch (machine.capability / 10) {
    case 8: return machine.capability == 80 ? Figures{12.0, 64.0, 2.0} : Figures{4.5, 128.0, 8.0};
    case 9: return {18.0, 128.0, 1.6};
    case 10: return {28.0, 128.0, 2.0};
    default: return {4.5, 128.0, 8.0};
  }
}

int64_t warp_tiles(int64_t rows, int64_t maps, Cover cover) {
  return ceil_div(rows, cover.rows) * ceil_div(maps, cover.maps);
}

// How many quarter warps of the FMA engine lie along the rows of coefficients: as many as waste least.
int best_lanes(const Tile& tile, int64_t rows, int64_t maps) {
  int best = 1;
  for (int lanes : {1, 2, 4})
    if (warp_tiles(rows, maps, first_cover(tile, lanes)) < warp_tiles(rows, maps, first_cover(tile, best)))
      best = lanes;
  return best;
}

// Rows of coefficients and data maps of one group, in each contraction.
struct Sizes {
  int64_t first_rows;
  int64_t first_maps;
  int64_t second_rows;
  int64_t second_maps;
};

Sizes sizes_of(const Step& step, const LaunchPlan& plan) {
  return {plan.group_pairs * step.term_count(), step.w.in, step.w.pairs(),
          step.one_row ? 1 : plan.group_pairs * sides(step.h)};
}

// Cycles that a warp takes for one k of a tile of the FMA engine: 4 * columns multiply-adds of 32 threads, two loads.
double fma_cycles(const Tile& tile, const Figures& figures) {
  const double arithmetic = 128.0 * tile.thread_columns / figures.multiply_adds;
  const double shared = tile.thread_columns == 4 ? 4.0 : 3.0;
  return std::max(arithmetic / 0.85, shared);
}

// The same for eight k of a tile of the MMA engine.
double mma_cycles(const Tile& tile, const Cover& cover, const Figures& figures) {
  const int chunks = cover.rows / kMmaRows;
  const double mma = 3.0 * chunks * cover.maps * tile.thread_columns / 2 * figures.mma;
  const double shared = 2.0 * cover.maps * tile.thread_columns + 4.0 * chunks;
  return std::max(mma, shared);
}

// Steps of eight k over both halves of an axis; a step of four counts half.
double mma_steps(const Axis& axis, int64_t terms) {
  return static_cast<double>(ceil_div(terms * axis.in_even(), 4) + ceil_div(terms * axis.in_odd(), 4)) / 2;
}

// Cycles of one multiprocessor for the contractions of one block while `together` share it: the larger of arithmetic
// and shared memory, or what the busiest warp takes where a stage has fewer tiles than there are warps.
double block_arithmetic(const Step& step, const LaunchPlan& plan, const Machine& machine, double together) {
  const Tile& tile = plan.tile;
  const Figures figures = figures_of(machine);
  const Sizes sizes = sizes_of(step, plan);
  const double groups = static_cast<double>(ceil_div(step.h.pairs(), plan.group_pairs)) / plan.splits;
  // With fewer than 16 warps throughput falls. A warp that has its quarter of the multiprocessor to itself keeps half
  // of it busy.
  const double few = std::max(1.0, 16.0 / (together * plan.warps));
  const auto stage = [&](int64_t tiles, double tile_cycles) {
    const int64_t rounds = ceil_div(tiles, plan.warps / plan.column_warps);
    const double throughput = static_cast<double>(tiles * plan.column_warps) * few;
    return std::max(throughput, static_cast<double>(rounds) * 8.0 / together) * tile_cycles;
  };
  const Cover first = first_cover(tile, plan.lanes_h);
  const Cover second = second_cover(tile, plan.lanes_w);
  const bool fma = tile.engine == Engine::fma;
  const double first_cycles = fma ? static_cast<double>(step.h.in) * fma_cycles(tile, figures)
                                  : mma_steps(step.h, 1) * mma_cycles(tile, first, figures);
  const double second_cycles = fma ? static_cast<double>(step.slots()) * fma_cycles(tile, figures)
                                   : mma_steps(step.w, step.term_count()) * mma_cycles(tile, second, figures);
  const int64_t first_tiles = step.one_row ? 0 : warp_tiles(sizes.first_rows, sizes.first_maps, first);
  return groups * (stage(first_tiles, first_cycles) +
                   stage(warp_tiles(sizes.second_rows, sizes.second_maps, second), second_cycles));
}

// Cycles of one multiprocessor that a block's memory traffic takes: the load of its map, and the stream of logits and
// results.
struct Traffic {
  double load;
  double stream;
};

Traffic traffic_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan, const Figures& figures) {
  const int64_t run_bytes = std::min<int64_t>(plan.columns(), call.vocabulary) * item_bytes(call.scalar);
  const double segment = static_cast<double>(run_bytes);
  const double waste = segment >= 128 ? 1.0 : segment >= 64 ? 1.05 : segment >= 32 ? 1.25 : 40.0 / segment;
  const double column_bytes = segment * waste;
  const double sources = static_cast<double>(call.sources);
  // Every split reads the map: the first one from memory, the others from the second-level cache.
  const double load = sources * static_cast<double>(step.h.in * step.w.in) * column_bytes / figures.bytes *
                      (1.0 / plan.splits + (1 - 1.0 / plan.splits) / 2);
  const double stream = ((call.current[0].data != nullptr ? sources : 0.0) + 1.0) *
                        static_cast<double>(step.h.out * step.w.out) * column_bytes / figures.bytes / plan.splits;
  return {load, stream};
}

// The time of two activities that overlap: a little more than the longer one.
double overlapped(double a, double b) { return std::cbrt(a * a * a + b * b * b); }

void predict(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  const auto [load, stream] = traffic_of(step, call, plan, figures_of(machine));
  const double per_processor = static_cast<double>(plan.blocks) / machine.multiprocessors;
  const double together = std::clamp(std::ceil(per_processor), 1.0, static_cast<double>(plan.resident));
  const double arithmetic = block_arithmetic(step, plan, machine, together);
  const int64_t groups = ceil_div(step.h.pairs(), plan.group_pairs);
  const double latency = 1500.0 + 700.0 * std::ceil(static_cast<double>(groups) / plan.splits);

  // A block that is alone waits for its map. Blocks that share a multiprocessor hide each other's loading and latency,
  // so the throughput decides or, with few rounds, the latency of each block.
  const double alone = latency + load + overlapped(arithmetic, stream);
  const double rounds = std::max(1.0, per_processor / plan.resident);
  const double whole = rounds < 4 ? std::ceil(rounds - 1e-9) : rounds;
  const double throughput = per_processor * overlapped(arithmetic, load + stream);
  plan.cycles = std::max(whole * alone, latency + throughput);
  plan.arithmetic = per_processor * arithmetic;
  plan.traffic = per_processor * (load + stream);
}

}  // namespace

bool complete(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  if (!serves(plan.tile, call.scalar)) return false;
  // With one row the map serves as slots, but its columns are exchanged (Swizzle) as those of a map. The MMA engine
  // cannot read that; such steps are small.
  if (plan.tile.engine == Engine::mma && step.one_row) return false;
  if (std::max(step.h.out, step.w.out) > kLongestAxis) return false;
  plan.shared_bytes = shared_memory_of(step, call, plan).bytes;
  if (plan.shared_bytes > machine.shared_per_block) return false;
  const int64_t groups = ceil_div(step.h.pairs(), plan.group_pairs);
  if (plan.splits > groups || plan.warps % plan.column_warps != 0) return false;
  plan.blocks = ceil_div(call.vocabulary, plan.columns()) * plan.splits * call.batch;
  if (plan.blocks > INT32_MAX) return false;
  plan.resident = static_cast<int>(
      std::min<int64_t>(kMostWarps / plan.warps, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024)));
  if (plan.resident < 1) return false;
  if (plan.tile.engine == Engine::fma) {
    const Sizes sizes = sizes_of(step, plan);
    plan.lanes_h = best_lanes(plan.tile, sizes.first_rows, sizes.first_maps);
    plan.lanes_w = best_lanes(plan.tile, sizes.second_rows, sizes.second_maps);
  }
  predict(step, call, machine, plan);
  return true;
}

}  // namespace ssg::cuda

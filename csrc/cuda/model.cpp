#include "model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "dense_step.h"
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
  if (stages_coefficients(plan.tile.thread_columns)) {
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

// Of one multiprocessor: bytes of device memory, float32 multiply-adds, float16 multiply-adds of the tensor cores, and
// float64 instructions of a warp per cycle.
struct Figures {
  double bytes;
  double multiply_adds;
  double products;
  double doubles;
};

Figures figures_of(const Machine& machine) {
  switch (machine.capability / 10) {
    case 8: return machine.capability == 80 ? Figures{10.5, 64.0, 1024.0, 1.0} : Figures{4.0, 128.0, 512.0, 1.0 / 16};
    case 9: return {18.5, 128.0, 1270.0, 2.0};
    case 10: return {25.5, 128.0, 1270.0, 2.0};
    default: return {4.0, 128.0, 256.0, 1.0 / 16};
  }
}

int64_t warp_tiles(int64_t rows, int64_t maps, Cover cover) {
  return ceil_div(rows, cover.rows) * ceil_div(maps, cover.maps);
}

// How many quarter warps of the FMA engine lie along the rows of coefficients: as many as waste least.
int best_lanes(int64_t rows, int64_t maps) {
  int best = 1;
  for (int lanes : {1, 2, 4})
    if (warp_tiles(rows, maps, cover_of(lanes)) < warp_tiles(rows, maps, cover_of(best))) best = lanes;
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

// Cycles that a warp takes for one k of a tile of the FMA engine: 4 * columns multiply-adds of 32 threads, two loads. The
// factors are those of the executed kernels.
double fma_cycles(const Tile& tile, const Figures& figures, bool is_double) {
  const double arithmetic = 128.0 * tile.thread_columns / figures.multiply_adds;
  const double doubles = is_double ? kFmaRows * tile.thread_columns / figures.doubles : 0.0;
  return std::max((tile.thread_columns == 1 ? 2.2 : 3.3) * std::max(arithmetic / 0.85, 3.0), doubles);
}

// Cycles of one multiprocessor for the contractions of one block while `together` share it: the larger of arithmetic
// and shared memory, or what the busiest warp takes where a stage has fewer tiles than there are warps.
double block_arithmetic(const Step& step, const GuidedCall& call, const LaunchPlan& plan, const Machine& machine,
                        double together) {
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
  const double cycles = fma_cycles(tile, figures, call.scalar == Scalar::float64);
  const int64_t first_tiles = step.one_row ? 0 : warp_tiles(sizes.first_rows, sizes.first_maps, cover_of(plan.lanes_h));
  const int64_t second_tiles = warp_tiles(sizes.second_rows, sizes.second_maps, cover_of(plan.lanes_w));
  // Instructions of set-up and epilogue, by the executed kernels.
  const double outputs = static_cast<double>(plan.columns() * step.h.out * step.w.out) / plan.splits;
  const double others = plan.warps * 400.0 + outputs * 25 / 32;
  return others / 3 + groups * (stage(first_tiles, static_cast<double>(step.h.in) * cycles) +
                                stage(second_tiles, static_cast<double>(step.slots()) * cycles));
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

// `arithmetic`: cycles of a multiprocessor for a block's; `latency`: what a block waits for, one thing after the other.
void predict(const Step& step, const GuidedCall& call, const Machine& machine, double arithmetic, double latency,
             LaunchPlan& plan) {
  const auto [load, stream] = traffic_of(step, call, plan, figures_of(machine));
  const double per_processor = static_cast<double>(plan.blocks) / machine.multiprocessors;

  // A block that is alone waits for its map. Blocks that share a multiprocessor hide each other's loading and latency,
  // so the throughput decides or, with few rounds, the latency of each block.
  // Fewer blocks than multiprocessors share all bandwidth.
  const double share = std::clamp(per_processor, 0.25, 1.0);
  const double alone = latency + share * load + overlapped(arithmetic, share * stream);
  const double rounds = std::max(1.0, per_processor / plan.resident);
  const double whole = rounds < 4 ? std::ceil(rounds - 1e-9) : rounds;
  const double throughput = per_processor * overlapped(arithmetic, load + stream);
  plan.cycles = std::max(whole * alone, latency + throughput);
  plan.arithmetic = per_processor * arithmetic;
  plan.traffic = per_processor * (load + stream);
}

// Blocks that share a multiprocessor at once.
double together_of(const Machine& machine, const LaunchPlan& plan) {
  const double per_processor = static_cast<double>(plan.blocks) / machine.multiprocessors;
  return std::clamp(std::ceil(per_processor), 1.0, static_cast<double>(plan.resident));
}

bool complete_dense(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan) {
  const std::optional<DenseStep> dense = dense_step(step, call.scalar);
  if (!dense) return false;
  const bool is_double = call.scalar == Scalar::float64;
  const int64_t inputs = step.h.in * step.w.in;
  plan.warps = static_cast<int>(std::min<int64_t>(dense->items, kMostDenseWarps));
  plan.shared_bytes = inputs * plan.columns() * (is_double ? 8 : 4);
  plan.blocks = ceil_div(call.vocabulary, plan.columns()) * call.batch;
  if (plan.shared_bytes > machine.shared_per_block || plan.blocks > INT32_MAX) return false;
  plan.resident = static_cast<int>(
      std::min<int64_t>({kMostWarps / plan.warps, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024), 16}));

  // Instructions of all warps, by the executed kernels.
  const double sources = static_cast<double>(call.sources);
  const auto at_once = static_cast<double>(dense->at_once);
  const auto items = static_cast<double>(dense->items);
  const double map = static_cast<double>(dense->step.h.in_even() * dense->step.w.in_even()) * (32 + 12 * sources);
  const double item = static_cast<double>(inputs) * (3.25 + at_once) + 50 + at_once * 4 * (9.5 + 6 * sources);
  const double instructions = plan.warps * 110.0 + map + items * item;
  const double products = is_double ? items * static_cast<double>(inputs) * at_once / figures_of(machine).doubles : 0.0;
  const double in_turn = instructions / plan.warps * std::ceil(items / plan.warps) / (items / plan.warps);
  const double arithmetic = std::max({instructions / 3, products, 2 * in_turn / together_of(machine, plan)});
  predict(step, call, machine, arithmetic, 1500.0 + 300.0 * std::ceil(items / plan.warps), plan);
  return true;
}

// What an item of the MMA engine, a strip in one of its splits, takes: warp instructions, multiply-adds on tensor cores,
// passes through the banks of shared memory. The constants are those of the executed kernels (docs/cuda.md).
struct TensorCounts {
  double instructions = 0.0;
  double products = 0.0;
  double wavefronts = 0.0;
};

TensorCounts tensor_counts(const TensorSizes& sizes, const TensorLayout& layout, const LaunchPlan& plan, bool is_sized,
                           int parts, const GuidedCall& call) {
  const double tiles = plan.tile.thread_columns / 2.0;
  const double groups = static_cast<double>(layout.groups) / plan.splits;
  // Run-time sizes take more instructions for addresses and loops.
  const double loose = is_sized ? 1.0 : tiles > 1 ? 2.9 : 3.7;
  const double sides = layout.parities;
  TensorCounts counts;
  const auto products = [&](double steps, double both) {  // `steps` of 16 k for all columns of the strip
    counts.products += steps * tiles * (both + 1) * 2048;
    counts.wavefronts += steps * tiles * both * 4;
    return steps * tiles * (both + 1 + both / 2);
  };
  const double units = sizes.in_w * std::ceil(sizes.in_h / 8.0) * 8 * tiles / 32;
  counts.instructions += 8 * 150 + units * loose * (parts == 2 ? 38 : 30) * (call.sources == 2 ? 1.5 : 1.0);
  counts.wavefronts += units * parts * 4;
  const double windows = sizes.windows ? 1.0 : 0.0;
  const double sums = layout.first_tiles * sides + windows;  // tiles of 16 rows of slots
  const double first = layout.coarse * groups;
  counts.instructions += first * loose *
                         (12 + sums * tiles * 5 + layout.first_tiles * (sides - 1) * tiles * 8 +
                          4 * (sums + (layout.first_tiles - 1) * 2));
  counts.instructions += products(first * (layout.first_tiles * sides * layout.first_steps + windows), parts);
  counts.products += first * sums * tiles * 1024;
  counts.wavefronts += first * sums * tiles * 8;
  const double rows = static_cast<double>(sizes.out_h) / plan.splits;
  const double second = rows * layout.second_tiles;
  const double values = 16 * sides * 8 * tiles / 32;  // of a thread, for a row
  const double bytes = static_cast<double>(item_bytes(call.scalar));
  counts.instructions += products(second * sides * layout.second_steps, 2);
  counts.instructions += second * loose * (20 + values * ((bytes == 4 ? 4.5 : 5.0) + (call.sources == 2 ? 5.0 : 0.0)));
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
  const bool is_sized = plan.tile.in != 0;
  const int64_t by_registers = plan.tile.in > 32 ? 1 : 2;
  plan.resident =
      static_cast<int>(std::min(by_registers, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024)));
  const int64_t items = ceil_div(call.vocabulary, plan.columns()) * plan.splits * call.batch;
  const int64_t at_once = static_cast<int64_t>(plan.resident) * machine.multiprocessors;
  const int64_t per_block = ceil_div(items, at_once);
  plan.blocks = ceil_div(items, per_block);
  if (plan.blocks > INT32_MAX || items / per_block > INT32_MAX || per_block > INT32_MAX) return false;

  const Figures figures = figures_of(machine);
  const auto [load, stream] = traffic_of(step, call, plan, figures);
  const TensorCounts counts = tensor_counts(tensor->sizes, layout, plan, is_sized, parts, call);
  // Items that the fullest multiprocessor takes, one block beside the other, and one after the other.
  const double together =
      std::min<double>(plan.resident, std::ceil(static_cast<double>(plan.blocks) / machine.multiprocessors));
  const double in_turn = static_cast<double>(per_block) * together;
  const double busy = std::max({counts.instructions / 3, counts.products / figures.products, counts.wavefronts});
  // A block alone waits for its map, and a warp for its own instructions: eight warps issue about two a cycle.
  const double latency = 1500.0 + 800.0 * std::ceil(static_cast<double>(layout.groups) / plan.splits);
  const double alone = latency + load + std::max(counts.instructions / 2, stream);
  // A block sets itself up once, by the executed kernels in 2000 instructions.
  const double begin = together * 2000 / 3;
  plan.arithmetic = begin + in_turn * busy;
  // Memory is shared by all, so what all blocks take counts.
  plan.traffic = static_cast<double>(items) / machine.multiprocessors * (load + stream);
  plan.cycles = std::max({begin + per_block * alone / (together > 1 ? 1.5 : 1.0),
                          plan.arithmetic + (together > 1 ? 0.0 : in_turn * load), plan.traffic + latency});
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
  const double groups_of_split = std::ceil(static_cast<double>(groups) / plan.splits);
  predict(step, call, machine, block_arithmetic(step, call, plan, machine, together_of(machine, plan)),
          1500.0 + 700.0 * groups_of_split, plan);
  return true;
}

}  // namespace ssg::cuda

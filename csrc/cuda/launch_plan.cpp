#include "launch_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace ssg::cuda {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t item_bytes(Scalar scalar) { return scalar == Scalar::float64 ? 8 : scalar == Scalar::float32 ? 4 : 2; }

int log2_of(int power) {
  int log = 0;
  while ((1 << log) < power) ++log;
  return log;
}

int sides(const Axis& axis) { return axis.symmetric && axis.out > 1 ? 2 : 1; }

}  // namespace

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

Shape shape_of(const StepKey& key) {
  Shape shape;
  shape.factors = prior_terms(key.size, key.prev_size, key.prior, key.interpolation, key.rescale, key.transposed);
  if (cached_plan<float>(key)->form == Form::dense) shape.factors = {{identity(1), dense_operator(shape.factors)}};
  shape.terms = static_cast<int64_t>(shape.factors.size());
  shape.h = make_axis(shape.factors, true);
  shape.w = make_axis(shape.factors, false);
  shape.one_row = shape.terms == 1 && shape.factors[0].h == identity(1);
  return shape;
}

// ---- the model

namespace {

// Longer axes take the direct form: block indices and Divisor's products stay below 2^31.
constexpr int64_t kLongestAxis = 1 << 12;

// Per multiprocessor and cycle: bytes of device memory, float32 multiply-adds; and cycles per tf32 m16n8k8 instruction.
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

// Rows and maps that a warp of the FMA engine covers are 4 * lanes and 4 / lanes: the lanes that waste least.
int best_lanes(int64_t rows, int64_t maps) {
  int best = 1;
  for (int lanes : {1, 2, 4}) {
    const auto covered = [&](int l) { return ceil_div(rows, 4 * l) * l * ceil_div(maps, 4 / l) * (4 / l); };
    if (covered(lanes) < covered(best)) best = lanes;
  }
  return best;
}

int first_maps(const LaunchPlan& plan) { return plan.thread_columns == 4 ? 2 : 4; }
int second_maps(const LaunchPlan&) { return 2; }

// Cycles of one multiprocessor for the contractions of one block while `together` share it: the larger of arithmetic
// and shared memory, or what the busiest warp takes where a stage has fewer tiles than there are warps.
double block_arithmetic(const Shape& shape, const LaunchPlan& plan, const Machine& machine, double together) {
  const int64_t column_tiles = plan.column_warps;
  const int64_t in_h = shape.h.in;
  const int64_t slots = shape.terms * shape.w.in;
  const int64_t all_groups = ceil_div(shape.h.pairs(), plan.group_pairs);
  const double groups = static_cast<double>(all_groups) / plan.splits;
  const int64_t rows_a = shape.one_row ? 0 : plan.group_pairs * shape.terms;
  const int64_t maps_b = shape.one_row ? 1 : plan.group_pairs * sides(shape.h);
  // With fewer than 16 warps throughput falls; alone on its quarter of the multiprocessor, a warp keeps half of it
  // busy.
  const double few = std::max(1.0, 16.0 / (together * plan.warps));
  const auto stage = [&](int64_t tiles, double tile_cycles) {
    const int64_t rounds = ceil_div(tiles, plan.warps / plan.column_warps);
    const double throughput = static_cast<double>(tiles * column_tiles) * few;
    return std::max(throughput, static_cast<double>(rounds) * 8.0 / together) * tile_cycles;
  };
  if (plan.engine == Engine::fma) {
    // A k of a warp: 4 * columns multiply-adds of 32 threads, and two loads.
    const double arithmetic = 128.0 * plan.thread_columns / figures_of(machine).multiply_adds;
    const double shared = plan.thread_columns == 4 ? 4.0 : 3.0;
    const double step = std::max(arithmetic / 0.85, shared);
    const auto tiles = [](int64_t rows, int64_t maps, int lanes) {
      return ceil_div(rows, 4 * lanes) * ceil_div(maps, 4 / lanes);
    };
    return groups * (stage(tiles(rows_a, shape.w.in, plan.lanes_h), static_cast<double>(in_h) * step) +
                     stage(tiles(shape.w.pairs(), maps_b, plan.lanes_w), static_cast<double>(slots) * step));
  }
  const auto steps = [](const Axis& axis, int64_t terms) {
    return static_cast<double>(ceil_div(terms * axis.in_even(), 4) + ceil_div(terms * axis.in_odd(), 4)) / 2;
  };
  const auto cost = [&](int64_t rows, int64_t maps, int tile_chunks, int tile_maps, double k_steps) {
    const double mma = 3.0 * tile_chunks * tile_maps * plan.thread_columns / 2 * figures_of(machine).mma;
    const double shared = 2.0 * tile_maps * plan.thread_columns + 4.0 * tile_chunks;
    return stage(ceil_div(rows, 8 * tile_chunks) * ceil_div(maps, tile_maps), k_steps * std::max(mma, shared));
  };
  return groups * (cost(rows_a, shape.w.in, 1, first_maps(plan), steps(shape.h, 1)) +
                   cost(shape.w.pairs(), maps_b, plan.chunks, second_maps(plan), steps(shape.w, shape.terms)));
}

void set_shared(const Shape& shape, const Step& step, LaunchPlan& plan, Params& params) {
  const int64_t bytes = step.scalar == Scalar::float64 ? 8 : 4;
  const int64_t columns = plan.columns();
  const int64_t groups = ceil_div(shape.h.pairs(), plan.group_pairs);
  const int64_t rows = plan.group_pairs * sides(shape.h);
  const int64_t slots = shape.terms * shape.w.in;
  int64_t at = shape.h.in * shape.w.in * columns * bytes;
  const int64_t slots_at = at;
  if (!shape.one_row) at += rows * slots * columns * bytes;
  const int64_t coefficients_at = at;
  if (plan.engine == Engine::fma && plan.thread_columns > 1) {
    at += slots * ceil_div(shape.w.pairs(), 4) * 4 * bytes;
    if (!shape.one_row) at += groups * shape.h.in * ceil_div(plan.group_pairs * shape.terms, 4) * 4 * bytes;
  }
  const int64_t stage_at = at;
  int64_t stage = 0;
  if (step.current[0].data != nullptr) stage = step.sources * rows * shape.w.out * columns * item_bytes(step.scalar);
  plan.shared_bytes = stage_at + stage * (groups > plan.splits ? 2 : 1);
  params.slots_at = static_cast<int32_t>(slots_at);
  params.coefficients_at = static_cast<int32_t>(coefficients_at);
  params.stage_at = static_cast<int32_t>(stage_at);
  params.stage_bytes = static_cast<int32_t>(stage);
}

// Two things that go on at once take a little longer than the longer of them.
double overlapped(double a, double b) { return std::cbrt(a * a * a + b * b * b); }

// Fills in what follows from the choices; false where they do not fit.
bool complete(const Shape& shape, const Step& step, const Machine& machine, LaunchPlan& plan) {
  // With one row the map is read as slots, but exchanged (Swizzle) as a map; such steps are small.
  if (plan.engine == Engine::mma && (step.scalar == Scalar::float64 || shape.one_row)) return false;
  if (std::max(shape.h.out, shape.w.out) > kLongestAxis) return false;
  if (plan.chunks != 1 && (plan.engine != Engine::mma || plan.thread_columns != 2)) return false;
  Params params;
  set_shared(shape, step, plan, params);
  if (plan.shared_bytes > machine.shared_per_block) return false;
  const int64_t groups = ceil_div(shape.h.pairs(), plan.group_pairs);
  if (plan.splits > groups || plan.warps % plan.column_warps != 0) return false;
  const int64_t strips = ceil_div(step.vocabulary, plan.columns());
  plan.blocks = strips * plan.splits * step.batch;
  if (plan.blocks > INT32_MAX) return false;
  // 128 registers a thread, as the kernels' launch bounds promise, leave room for 16 warps.
  plan.resident = static_cast<int>(
      std::min<int64_t>(16 / plan.warps, machine.shared_per_multiprocessor / (plan.shared_bytes + 1024)));
  if (plan.resident < 1) return false;
  if (plan.engine == Engine::fma) {
    plan.lanes_h = best_lanes(plan.group_pairs * shape.terms, shape.w.in);
    plan.lanes_w = best_lanes(shape.w.pairs(), shape.one_row ? 1 : plan.group_pairs * sides(shape.h));
  }

  const Figures figures = figures_of(machine);
  const double segment = static_cast<double>(std::min<int64_t>(plan.columns(), step.vocabulary)) *
                         static_cast<double>(item_bytes(step.scalar));
  const double waste = segment >= 128 ? 1.0 : segment >= 64 ? 1.05 : segment >= 32 ? 1.25 : 40.0 / segment;
  const double column_bytes =
      static_cast<double>(std::min<int64_t>(plan.columns(), step.vocabulary) * item_bytes(step.scalar)) * waste;
  const double sources = static_cast<double>(step.sources);
  // The map is read by every split, but only once from memory; the other times from the second-level cache.
  const double load = sources * static_cast<double>(shape.h.in * shape.w.in) * column_bytes / figures.bytes *
                      (1.0 / plan.splits + (1 - 1.0 / plan.splits) / 2);
  const double stream = ((step.current[0].data != nullptr ? sources : 0.0) + 1.0) *
                        static_cast<double>(shape.h.out * shape.w.out) * column_bytes / figures.bytes / plan.splits;
  const double per_processor = static_cast<double>(plan.blocks) / machine.multiprocessors;
  const double together = std::clamp(std::ceil(per_processor), 1.0, static_cast<double>(plan.resident));
  const double arithmetic = block_arithmetic(shape, plan, machine, together);
  const double latency = 1500.0 + 700.0 * std::ceil(static_cast<double>(groups) / plan.splits);

  // A block alone waits for its map; blocks that share a multiprocessor hide each other's loading and latency, so that
  // either throughput binds or, with few rounds, the latency of each.
  const double alone = latency + load + overlapped(arithmetic, stream);
  const double rounds = std::max(1.0, per_processor / plan.resident);
  const double whole = rounds < 4 ? std::ceil(rounds - 1e-9) : rounds;
  const double throughput = per_processor * overlapped(arithmetic, load + stream);
  plan.cycles = std::max(whole * alone, latency + throughput);
  plan.arithmetic = per_processor * arithmetic;
  plan.traffic = per_processor * (load + stream);
  return true;
}

}  // namespace

LaunchPlan plan_launch(const Shape& shape, const Step& step, const Machine& machine, const LaunchPlan& choices) {
  LaunchPlan plan = choices;
  if (plan.engine == Engine::direct) return plan;
  if (!complete(shape, step, machine, plan)) throw std::invalid_argument("this plan does not fit: " + plan.describe());
  return plan;
}

LaunchPlan plan_launch(const Shape& shape, const Step& step, const Machine& machine) {
  LaunchPlan best;  // the direct form, where nothing else fits
  const int64_t pairs = shape.h.pairs();
  for (const Engine engine : {Engine::fma, Engine::mma}) {
    for (const auto& [thread_columns, chunks] : {std::pair(4, 1), std::pair(2, 2), std::pair(2, 1), std::pair(1, 1)}) {
      if (thread_columns == 4 && step.scalar == Scalar::float64) continue;
      if (thread_columns == 1 && engine == Engine::mma) continue;
      for (const int column_warps : {1, 2, 4})
        for (const int warps : {4, 8, 16})
          for (int64_t group_pairs = 1; group_pairs <= std::min<int64_t>(pairs, 16); ++group_pairs) {
            const int64_t groups = ceil_div(pairs, group_pairs);
            for (int64_t splits = 1; splits <= groups;
                 splits = splits < groups ? std::min(2 * splits, groups) : groups + 1) {
              LaunchPlan plan;
              plan.engine = engine;
              plan.thread_columns = thread_columns;
              plan.chunks = chunks;
              plan.column_warps = column_warps;
              plan.warps = warps;
              plan.group_pairs = static_cast<int>(group_pairs);
              plan.splits = static_cast<int>(splits);
              if (!complete(shape, step, machine, plan)) continue;
              // Of equals the first: wider accesses and fewer warps.
              if (best.engine == Engine::direct || plan.cycles < best.cycles * 0.999) best = plan;
            }
          }
    }
  }
  return best;
}

std::string LaunchPlan::describe() const {
  std::ostringstream text;
  if (engine == Engine::direct) return "direct, a thread per element";
  text << (engine == Engine::fma ? "fma" : "mma 3xtf32") << ", " << blocks << " blocks of " << warps << " warps x "
       << columns() << " columns (" << thread_columns << (chunks == 1 ? "" : " x 2") << " a thread), " << group_pairs
       << " row pairs at once, " << splits << (splits == 1 ? " split" : " splits") << ", " << shared_bytes
       << " bytes shared, " << resident << " resident; model: " << static_cast<int64_t>(cycles)
       << " cycles (arithmetic " << static_cast<int64_t>(arithmetic) << ", memory " << static_cast<int64_t>(traffic)
       << ")";
  return text.str();
}

// ---- coefficients

namespace {

float tf32(double x) {
  const float rounded = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &rounded, 4);
  bits = (bits + 0x1000u) & 0xffffe000u;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// A product's coefficients, [row][k] in two halves.
struct Rows {
  std::vector<std::vector<double>> even;
  std::vector<std::vector<double>> odd;
};

template <class T>
void append(std::vector<T>& values, const Rows& rows, Engine engine, Coefficients& layout) {
  const int64_t count = static_cast<int64_t>(rows.even.size());
  const size_t begin = values.size();
  const auto at = [count](const std::vector<std::vector<double>>& half, int64_t row, size_t k) {
    return row < count && k < half[static_cast<size_t>(row)].size() ? half[static_cast<size_t>(row)][k] : 0.0;
  };
  const auto length = [](const std::vector<std::vector<double>>& half) { return half.empty() ? 0 : half[0].size(); };
  if (engine == Engine::fma) {
    layout.rows = static_cast<int32_t>(ceil_div(count, 4) * 4);
    for (const auto* half : {&rows.even, &rows.odd})
      for (size_t k = 0; k < length(*half); ++k)
        for (int64_t row = 0; row < layout.rows; ++row) values.push_back(static_cast<T>(at(*half, row, k)));
  } else {
    layout.rows = static_cast<int32_t>(ceil_div(count, 8));
    layout.even_steps = static_cast<int32_t>(ceil_div(static_cast<int64_t>(length(rows.even)), 8));
    layout.odd_steps = static_cast<int32_t>(ceil_div(static_cast<int64_t>(length(rows.odd)), 8));
    for (int64_t chunk = 0; chunk < layout.rows; ++chunk)
      for (const auto* half : {&rows.even, &rows.odd})
        for (size_t k = 0; k < length(*half); k += 8)
          for (int lane = 0; lane < 32; ++lane) {
            const size_t l = static_cast<size_t>(lane % 4);
            const double near = at(*half, chunk * 8 + lane / 4, k + l);
            const double far = at(*half, chunk * 8 + lane / 4, k + l + 4);
            for (const double value :
                 {static_cast<double>(tf32(near)), static_cast<double>(tf32(far)), near - tf32(near), far - tf32(far)})
              values.push_back(static_cast<T>(tf32(value)));
          }
  }
  layout.group = static_cast<int32_t>(values.size() - begin);
}

}  // namespace

template <class T>
Packed<T> pack(const Shape& shape, Engine engine, int group_pairs) {
  Packed<T> packed;
  if (engine == Engine::direct) {  // plainly: [term][output][input]
    for (const Term& term : shape.factors)
      for (double value : term.h.values) packed.values.push_back(static_cast<T>(value));
    packed.w_at = static_cast<int64_t>(packed.values.size());
    for (const Term& term : shape.factors)
      for (double value : term.w.values) packed.values.push_back(static_cast<T>(value));
    return packed;
  }
  if (!shape.one_row)
    for (int64_t first = 0; first < shape.h.pairs(); first += group_pairs) {
      Rows rows;
      for (int64_t pair = first; pair < first + group_pairs; ++pair)
        for (const Term& term : shape.factors) {
          PairRow row{std::vector<double>(shape.h.in_even()), std::vector<double>(shape.h.in_odd())};
          if (pair < shape.h.pairs()) row = pair_row(term.h, shape.h, pair);
          rows.even.push_back(row.even);
          rows.odd.push_back(row.odd);
        }
      append(packed.values, rows, engine, packed.h);
    }
  packed.w_at = static_cast<int64_t>(packed.values.size());
  Rows rows;
  for (int64_t pair = 0; pair < shape.w.pairs(); ++pair) {
    std::vector<double> even;
    std::vector<double> odd;
    for (const Term& term : shape.factors) {
      const PairRow row = pair_row(term.w, shape.w, pair);
      even.insert(even.end(), row.even.begin(), row.even.end());
      odd.insert(odd.end(), row.odd.begin(), row.odd.end());
    }
    rows.even.push_back(std::move(even));
    rows.odd.push_back(std::move(odd));
  }
  append(packed.values, rows, engine, packed.w);
  return packed;
}

template <class T>
void set_coefficients(DirectParams& params, const Packed<T>& packed, const T* data) {
  params.h = data;
  params.w = data + packed.w_at;
}

template <class T>
void set_coefficients(Params& params, const Packed<T>& packed, const T* data) {
  params.h = packed.h;
  params.w = packed.w;
  params.h.data = data;
  params.w.data = data + packed.w_at;
}

// ---- parameters

namespace {

bool is_aligned(const Logits& logits, Scalar scalar) {
  const int64_t bytes = item_bytes(scalar);
  return reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.batch_stride * bytes % 16 == 0 &&
         logits.token_stride * bytes % 16 == 0;
}

}  // namespace

Params params_of(const Shape& shape, const LaunchPlan& plan, const Step& step) {
  Params params;
  params.in_h = {static_cast<int32_t>(shape.h.in_even()), static_cast<int32_t>(shape.h.in_odd())};
  params.in_w = {static_cast<int32_t>(shape.w.in_even()), static_cast<int32_t>(shape.w.in_odd())};
  params.out_h = static_cast<int32_t>(shape.h.out);
  params.out_w = static_cast<int32_t>(shape.w.out);
  params.pairs_h = static_cast<int32_t>(shape.h.pairs());
  params.pairs_w = static_cast<int32_t>(shape.w.pairs());
  params.sides_h = sides(shape.h);
  params.sides_w = sides(shape.w);
  params.terms = static_cast<int32_t>(shape.terms);
  params.one_row = shape.one_row;
  params.columns = plan.columns();
  params.columns_log = log2_of(plan.columns());
  params.column_warps_log = log2_of(plan.column_warps);
  params.group_pairs = plan.group_pairs;
  params.groups = static_cast<int32_t>(ceil_div(shape.h.pairs(), plan.group_pairs));
  params.splits = plan.splits;
  params.strips = static_cast<int32_t>(ceil_div(step.vocabulary, plan.columns()));
  params.lanes_h = log2_of(plan.lanes_h);
  params.lanes_w = log2_of(plan.lanes_w);
  const bool fma = plan.engine == Engine::fma;
  params.row_tiles = static_cast<int32_t>(ceil_div(plan.group_pairs * shape.terms, fma ? 4 * plan.lanes_h : 8));
  params.map_tiles = static_cast<int32_t>(ceil_div(shape.w.in, fma ? 4 / plan.lanes_h : first_maps(plan)));
  params.pair_tiles = static_cast<int32_t>(ceil_div(shape.w.pairs(), fma ? 4 * plan.lanes_w : 8 * plan.chunks));
  params.by_terms = Divisor(shape.terms);
  params.by_out_w = Divisor(shape.w.out);
  params.by_in_w_even = Divisor(shape.w.in_even());
  params.by_row_tiles = Divisor(params.row_tiles);
  params.by_pair_tiles = Divisor(params.pair_tiles);
  // A row of 32 and more columns takes all banks, one of 16 half of them; one of 8 leaves four apart as they are.
  if (plan.engine == Engine::mma) {
    params.swizzle_shift = plan.columns() >= 32 ? 0 : 1;
    params.swizzle_mask = plan.columns() >= 32 ? 3 : 1;
  }
  LaunchPlan sized = plan;
  set_shared(shape, step, sized, params);
  set_step(params, step);
  return params;
}

void set_step(Params& params, const Step& step) {
  params.step = step;
  params.current_aligned = params.previous_aligned = true;
  for (int64_t s = 0; s < step.sources; ++s) {
    params.current_aligned = params.current_aligned && is_aligned(step.current[s], step.scalar);
    params.previous_aligned = params.previous_aligned && is_aligned(step.previous[s], step.scalar);
  }
  params.out_aligned = is_aligned(step.out, step.scalar);
}

DirectParams direct_params_of(const Shape& shape, const Step& step) {
  DirectParams params;
  params.terms = static_cast<int32_t>(shape.terms);
  params.in_h = static_cast<int32_t>(shape.h.in);
  params.in_w = static_cast<int32_t>(shape.w.in);
  params.out_h = static_cast<int32_t>(shape.h.out);
  params.out_w = static_cast<int32_t>(shape.w.out);
  params.step = step;
  return params;
}

template Packed<float> pack<float>(const Shape&, Engine, int);
template Packed<double> pack<double>(const Shape&, Engine, int);
template void set_coefficients<float>(Params&, const Packed<float>&, const float*);
template void set_coefficients<double>(Params&, const Packed<double>&, const double*);
template void set_coefficients<float>(DirectParams&, const Packed<float>&, const float*);
template void set_coefficients<double>(DirectParams&, const Packed<double>&, const double*);

std::string describe(const StepKey& key, const Step& step, int compute_capability, int multiprocessors) {
  return plan_launch(shape_of(key), step, machine_of(compute_capability, multiprocessors)).describe();
}

}  // namespace ssg::cuda

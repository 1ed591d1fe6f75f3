#include "params.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "dense_step.h"
#include "model.h"
#include "pack.h"
#include "tensor_step.h"

namespace ssg::cuda {
namespace {

int log2_of(int power) {
  int log = 0;
  while ((1 << log) < power) ++log;
  return log;
}

bool is_aligned(const Logits& logits, Scalar scalar) {
  const int64_t bytes = item_bytes(scalar);
  return reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.batch_stride * bytes % 16 == 0 &&
         logits.token_stride * bytes % 16 == 0;
}

Halves halves_of(const Axis& axis) {
  return {static_cast<int32_t>(axis.in_even()), static_cast<int32_t>(axis.in_odd())};
}

void set_geometry(Params& params, const Step& step) {
  params.in_h = halves_of(step.h);
  params.in_w = halves_of(step.w);
  params.out_h = static_cast<int32_t>(step.h.out);
  params.out_w = static_cast<int32_t>(step.w.out);
  params.pairs_h = static_cast<int32_t>(step.h.pairs());
  params.pairs_w = static_cast<int32_t>(step.w.pairs());
  params.sides_h = sides(step.h);
  params.sides_w = sides(step.w);
  params.terms = static_cast<int32_t>(step.term_count());
  params.one_row = step.one_row;
  params.by_terms = Divisor(step.term_count());
  params.by_out_w = Divisor(step.w.out);
  params.by_in_w_even = Divisor(step.w.in_even());
}

void set_work(Params& params, const Step& step, const LaunchPlan& plan, const GuidedCall& call) {
  params.columns = plan.columns();
  params.columns_log = log2_of(plan.columns());
  params.column_warps_log = log2_of(plan.column_warps);
  params.group_pairs = plan.group_pairs;
  params.groups = static_cast<int32_t>(ceil_div(step.h.pairs(), plan.group_pairs));
  params.splits = plan.splits;
  params.strips = static_cast<int32_t>(ceil_div(call.vocabulary, plan.columns()));
  params.lanes_h = log2_of(plan.lanes_h);
  params.lanes_w = log2_of(plan.lanes_w);
  const Cover first = cover_of(plan.lanes_h);
  const Cover second = cover_of(plan.lanes_w);
  params.row_tiles = static_cast<int32_t>(ceil_div(plan.group_pairs * step.term_count(), first.rows));
  params.map_tiles = static_cast<int32_t>(ceil_div(step.w.in, first.maps));
  params.pair_tiles = static_cast<int32_t>(ceil_div(step.w.pairs(), second.rows));
  params.by_row_tiles = Divisor(params.row_tiles);
  params.by_pair_tiles = Divisor(params.pair_tiles);
}

}  // namespace

Params params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call) {
  Params params;
  set_geometry(params, step);
  set_work(params, step, plan, call);
  const SharedMemory memory = shared_memory_of(step, call, plan);
  params.slots_at = static_cast<int32_t>(memory.slots_at);
  params.coefficients_at = static_cast<int32_t>(memory.coefficients_at);
  params.stage_at = static_cast<int32_t>(memory.stage_at);
  params.stage_bytes = static_cast<int32_t>(memory.stage_bytes);
  set_call(params, call);
  return params;
}

DenseParams dense_params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call) {
  const DenseStep dense = dense_step(step, call.scalar).value();
  DenseParams params;
  const Halves h = halves_of(dense.step.h);
  const Halves w = halves_of(dense.step.w);
  params.quarter = h.even * w.even;
  const int32_t counts[4] = {h.odd * w.odd, (h.even - h.odd) * w.odd, h.odd * (w.even - w.odd),
                             (h.even - h.odd) * (w.even - w.odd)};
  std::copy(std::begin(counts), std::end(counts), params.counts);
  params.inputs = static_cast<int32_t>(dense.step.h.in * dense.step.w.in);
  params.items = static_cast<int32_t>(dense.items);
  params.whole_items = static_cast<int32_t>(dense.whole_items);
  params.strips = static_cast<int32_t>(ceil_div(call.vocabulary, plan.columns()));
  set_call(params, call);
  return params;
}

TensorParams tensor_params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call) {
  const TensorStep tensor = tensor_step(step, plan.tile).value();
  const int parts = parts_of(item_bytes(call.scalar), call.sources);
  const int tiles = plan.tile.thread_columns / 2;
  TensorParams params;
  params.sizes = tensor.sizes;
  params.layout = tensor_layout(tensor.sizes, parts, tiles);
  const int64_t blocks = ceil_div(step.h.in, 8);
  params.by_blocks = Divisor(blocks);
  params.by_splits = Divisor(plan.splits);
  params.splits = plan.splits;
  params.columns = plan.columns();
  params.strips = static_cast<int32_t>(ceil_div(call.vocabulary, plan.columns()));
  params.items = int64_t{params.strips} * plan.splits * call.batch;
  params.per_block = static_cast<int32_t>(ceil_div(params.items, plan.blocks));
  // A slot must stay below the largest half. Below a quarter, low parts are subnormal.
  double growth = 1.0;
  for (const Term* term : tensor.terms)
    for (int64_t row = 0; row < term->h.rows; ++row) {
      double sum = 0.0;
      for (int64_t i = 0; i < term->h.cols; ++i) sum += std::abs(term->h(row, i));
      growth = std::max(growth, sum);
    }
  const double most = 65504.0 / (growth * (tensor.sizes.folds ? 2 : 1));
  params.most_squares = static_cast<float>(most * most);
  const int64_t per_thread = ceil_div(step.w.in * blocks * 8 * tiles, kMmaThreads) * 8;
  params.least_squares = static_cast<float>(per_thread) / 16;
  set_call(params, call);
  return params;
}

DirectParams direct_params_of(const Step& step, const GuidedCall& call) {
  DirectParams params;
  params.terms = static_cast<int32_t>(step.term_count());
  params.in_h = static_cast<int32_t>(step.h.in);
  params.in_w = static_cast<int32_t>(step.w.in);
  params.out_h = static_cast<int32_t>(step.h.out);
  params.out_w = static_cast<int32_t>(step.w.out);
  params.call = call;
  return params;
}

void set_call(Params& params, const GuidedCall& call) {
  params.call = call;
  params.current_aligned = params.previous_aligned = true;
  for (int64_t s = 0; s < call.sources; ++s) {
    params.current_aligned = params.current_aligned && is_aligned(call.current[s], call.scalar);
    params.previous_aligned = params.previous_aligned && is_aligned(call.previous[s], call.scalar);
  }
  params.out_aligned = is_aligned(call.out, call.scalar);
}

void set_call(TensorParams& params, const GuidedCall& call) {
  params.call = call;
  bool aligned = is_aligned(call.out, call.scalar);
  for (int64_t s = 0; s < call.sources; ++s)
    aligned = aligned && is_aligned(call.current[s], call.scalar) && is_aligned(call.previous[s], call.scalar);
  const bool has_tail = call.vocabulary % params.columns != 0;
  params.whole_strips = aligned ? params.strips - (has_tail ? 1 : 0) : 0;
}

void set_call(DenseParams& params, const GuidedCall& call) { params.call = call; }

void set_call(DirectParams& params, const GuidedCall& call) { params.call = call; }

template <class T>
void set_coefficients(Params& params, const Packed<T>& packed, const T* data) {
  params.h = packed.h;
  params.w = packed.w;
  params.h.data = data;
  params.w.data = data + packed.w_at;
}

template <class T>
void set_coefficients(DenseParams& params, const Packed<T>& packed, const T* data) {
  params.coefficients = data;
  params.coarse = data + packed.coarse_at;
  params.tokens = data + packed.tokens_at;
}

void set_coefficients(TensorParams& params, const Packed<float>& packed, const float* data) {
  params.first = data;
  params.second = data + packed.w_at;
  params.starts = reinterpret_cast<const int32_t*>(data + packed.starts_at);
  params.exact_h = data + packed.exact_h_at;
  params.exact_w = data + packed.exact_w_at;
}

template <class T>
void set_coefficients(DirectParams& params, const Packed<T>& packed, const T* data) {
  params.h = data;
  params.w = data + packed.w_at;
}

template void set_coefficients<float>(Params&, const Packed<float>&, const float*);
template void set_coefficients<double>(Params&, const Packed<double>&, const double*);
template void set_coefficients<float>(DenseParams&, const Packed<float>&, const float*);
template void set_coefficients<double>(DenseParams&, const Packed<double>&, const double*);
template void set_coefficients<float>(DirectParams&, const Packed<float>&, const float*);
template void set_coefficients<double>(DirectParams&, const Packed<double>&, const double*);

}  // namespace ssg::cuda

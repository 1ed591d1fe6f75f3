#include "params.h"

#include "model.h"
#include "pack.h"

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

void set_geometry(Params& params, const Step& step) {
  params.in_h = {static_cast<int32_t>(step.h.in_even()), static_cast<int32_t>(step.h.in_odd())};
  params.in_w = {static_cast<int32_t>(step.w.in_even()), static_cast<int32_t>(step.w.in_odd())};
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
  const Cover first = first_cover(plan.tile, plan.lanes_h);
  const Cover second = second_cover(plan.tile, plan.lanes_w);
  params.row_tiles = static_cast<int32_t>(ceil_div(plan.group_pairs * step.term_count(), first.rows));
  params.map_tiles = static_cast<int32_t>(ceil_div(step.w.in, first.maps));
  params.pair_tiles = static_cast<int32_t>(ceil_div(step.w.pairs(), second.rows));
  params.by_row_tiles = Divisor(params.row_tiles);
  params.by_pair_tiles = Divisor(params.pair_tiles);
  // A row of 32 or more columns takes all banks, one of 16 takes half of them.
  if (plan.tile.engine == Engine::mma) {
    params.swizzle_shift = plan.columns() >= 32 ? 0 : 1;
    params.swizzle_mask = plan.columns() >= 32 ? 3 : 1;
  }
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

template <class T>
void set_coefficients(Params& params, const Packed<T>& packed, const T* data) {
  params.h = packed.h;
  params.w = packed.w;
  params.h.data = data;
  params.w.data = data + packed.w_at;
}

template <class T>
void set_coefficients(DirectParams& params, const Packed<T>& packed, const T* data) {
  params.h = data;
  params.w = data + packed.w_at;
}

template void set_coefficients<float>(Params&, const Packed<float>&, const float*);
template void set_coefficients<double>(Params&, const Packed<double>&, const double*);
template void set_coefficients<float>(DirectParams&, const Packed<float>&, const float*);
template void set_coefficients<double>(DirectParams&, const Packed<double>&, const double*);

}  // namespace ssg::cuda

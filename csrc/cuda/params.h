// What a launch hands to the kernel.
#pragma once

#include <cstdint>

#include "call.h"
#include "tensor_layout.h"

namespace ssg {
struct Step;
}

namespace ssg::cuda {

struct LaunchPlan;
template <class T>
struct Packed;

// One axis of the coarse map along which a product runs: the even coordinates, then the odd ones.
struct Halves {
  int32_t even = 0;
  int32_t odd = 0;
};

// Where the coefficients of a contraction lie; pack.h says in which order.
struct Coefficients {
  const void* data = nullptr;  // in global memory
  int32_t rows = 0;            // padded, the distance from k to k + 1
  int32_t group = 0;           // elements from one group's coefficients to the next group's
};

// Division of numbers below 2^16 by a fixed one: a multiplication in place of twenty instructions.
struct Divisor {
  uint32_t divisor = 1;
  uint32_t factor = 0;  // 2^32 / divisor, rounded up
  Divisor() = default;
  explicit Divisor(int64_t d)
      : divisor(static_cast<uint32_t>(d)), factor(static_cast<uint32_t>((int64_t{1} << 32) / d + 1)) {}
};

// The FMA engine.
struct Params {
  // The geometry, as in step.h's Axis. A symmetric axis has two sides: output r and its mirror.
  Halves in_h;
  Halves in_w;
  int32_t out_h = 0;
  int32_t out_w = 0;
  int32_t pairs_h = 0;
  int32_t pairs_w = 0;
  int32_t sides_h = 1;
  int32_t sides_w = 1;
  int32_t terms = 1;
  bool one_row = false;  // the dense form: no first contraction, the slots are the map

  // The work of a block: `columns` columns of one sample, and the row groups of one split.
  int32_t columns = 0;
  int32_t columns_log = 0;       // columns and column_warps are powers of two
  int32_t column_warps_log = 0;  // warps side by side along the columns
  int32_t group_pairs = 1;       // output row pairs whose slots lie in shared memory at once
  int32_t groups = 1;
  int32_t splits = 1;
  int32_t strips = 1;
  int32_t lanes_h = 0;     // log2 of the quarter warps along the rows of coefficients, first contraction
  int32_t lanes_w = 0;     // the same for the second contraction
  int32_t row_tiles = 1;   // first contraction: tiles along the rows of coefficients of a whole group,
  int32_t map_tiles = 1;   // and along the coarse columns
  int32_t pair_tiles = 1;  // second contraction: tiles along the output column pairs

  // Where a block's data lies in shared memory, in bytes; the map lies at 0.
  int32_t slots_at = 0;
  int32_t coefficients_at = 0;
  int32_t stage_at = 0;
  int32_t stage_bytes = 0;  // of one of the two buffers of staged logits, all sources

  Divisor by_terms;
  Divisor by_out_w;
  Divisor by_in_w_even;
  Divisor by_row_tiles;
  Divisor by_pair_tiles;

  Coefficients h;
  Coefficients w;

  GuidedCall call;
  bool current_aligned = false;  // for 16-byte accesses
  bool previous_aligned = false;
  bool out_aligned = false;
};

// The dense engine.
struct DenseParams {
  // The coarse tokens of the upper left quarter: in all, and of them those with all mirrors, those on the middle row, on
  // the middle column, on both.
  int32_t quarter = 0;
  int32_t counts[4] = {};
  int32_t inputs = 0;       // all coarse tokens
  int32_t items = 0;        // the output tokens of the upper left quarter, as many at once as the kernel takes
  int32_t whole_items = 0;  // the first ones, whose output tokens all have their mirrors
  int32_t strips = 1;       // of 32 columns
  const void* coefficients = nullptr;  // [item][k][output token]
  // int32, [token][itself, mirror along w, along h, both]; -1 for none
  const void* coarse = nullptr;
  const void* tokens = nullptr;  // [item][output token]...
  GuidedCall call;
};

// The MMA engine.
struct TensorParams {
  TensorSizes sizes;
  TensorLayout layout;
  Divisor by_blocks;  // of 8 coarse rows
  Divisor by_splits;

  // An item is a strip of columns of one sample and the row groups of one split. A block takes `per_block` of them.
  int64_t items = 0;
  int32_t columns = 0;  // of a strip
  int32_t per_block = 1;
  int32_t splits = 1;
  int32_t strips = 1;
  int32_t whole_strips = 0;  // whose columns all exist; 0 where logits are not aligned for 16-byte accesses

  // Bounds of the sum of the squares of what a thread loads: what float16 holds, and what it holds accurately.
  float most_squares = 0.0f;
  float least_squares = 0.0f;

  const void* first = nullptr;      // fragments of the first contraction, in global memory as all of these
  const void* second = nullptr;     // and of the second
  const int32_t* starts = nullptr;  // [group] the first coarse row of the window
  const float* exact_h = nullptr;   // [term][output][input]
  const float* exact_w = nullptr;   // [output][term][input]

  GuidedCall call;
};

// The direct form, for maps that shared memory cannot hold: one thread per output element.
struct DirectParams {
  const void* h = nullptr;  // [term][output][input]
  const void* w = nullptr;
  int32_t terms = 1;
  int32_t in_h = 0;
  int32_t in_w = 0;
  int32_t out_h = 0;
  int32_t out_w = 0;
  GuidedCall call;
};

// Everything but the coefficients' addresses.
Params params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call);
DenseParams dense_params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call);
TensorParams tensor_params_of(const Step& step, const LaunchPlan& plan, const GuidedCall& call);
DirectParams direct_params_of(const Step& step, const GuidedCall& call);
// Another call of the same kind: its addresses, strides and strengths.
void set_call(Params& params, const GuidedCall& call);
void set_call(DenseParams& params, const GuidedCall& call);
void set_call(TensorParams& params, const GuidedCall& call);
void set_call(DirectParams& params, const GuidedCall& call);
// `data` is where packed.values lie for the kernel.
template <class T>
void set_coefficients(Params& params, const Packed<T>& packed, const T* data);
template <class T>
void set_coefficients(DenseParams& params, const Packed<T>& packed, const T* data);
void set_coefficients(TensorParams& params, const Packed<float>& packed, const float* data);
template <class T>
void set_coefficients(DirectParams& params, const Packed<T>& packed, const T* data);

}  // namespace ssg::cuda

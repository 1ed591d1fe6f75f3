// The coefficients of the MMA engine, in the order in which a warp reads them.
//
// A fragment is 16 rows x 16 k of float16, 512 bytes: lane 4 g + l has the words (row g, k = 2 l and 2 l + 1), (row
// g + 8), (row g, k + 8), (row g + 8, k + 8). A coefficient is a fragment of high parts, then one of low parts.
//
//   first:   [group][tile][step], and for windows one coefficient more after the tiles of a group. The rows of a tile
//            are two blocks of eight output rows: of two terms, or of one.
//   second:  [tile of 16 output columns or pairs][parity][step]
//   starts, and the factors in float32 for exact.h
#include <algorithm>
#include <cstring>

#include "float16.h"
#include "pack.h"
#include "tensor_step.h"

namespace ssg::cuda {
namespace {

// Appends the coefficient whose entry (row, k) is f(row, k).
template <class F>
void append_coefficient(std::vector<float>& values, F&& f) {
  for (const bool is_low : {false, true})
    for (int lane = 0; lane < 32; ++lane)
      for (int word = 0; word < 4; ++word) {
        uint32_t bits = 0;
        for (int half = 0; half < 2; ++half) {
          const double x = f(lane / 4 + word % 2 * 8, lane % 4 * 2 + half + word / 2 * 8);
          uint16_t part = float16_bits(static_cast<float>(x));
          if (is_low) part = float16_bits(static_cast<float>(x - double{float16_value(part)}));
          bits |= static_cast<uint32_t>(part) << (16 * half);
        }
        float value;
        std::memcpy(&value, &bits, 4);
        values.push_back(value);
      }
}

double entry(const Matrix& factor, int64_t row, int64_t column) {
  return row < factor.rows && column < factor.cols ? factor(row, column) : 0.0;
}

void append_first(std::vector<float>& values, const TensorStep& step, const TensorLayout& layout) {
  for (int group = 0; group < layout.groups; ++group) {
    for (int tile = 0; tile < layout.first_tiles; ++tile)
      for (int at = 0; at < layout.first_steps; ++at)
        append_coefficient(values, [&](int row, int k) {
          const int number = 2 * tile + row / 8;
          const int term = number / layout.row_blocks;
          if (term >= layout.dense_terms) return 0.0;
          const int block = group * layout.row_blocks + number % layout.row_blocks;
          return entry(step.terms[static_cast<size_t>(term)]->h, block * 8 + row % 8, at * 16 + k);
        });
    if (!step.sizes.windows) continue;
    const int start = step.starts[static_cast<size_t>(group)];
    append_coefficient(values, [&](int row, int k) {
      const double x = entry(step.terms.back()->h, group * 8 + row % 8, start + k % 8);
      return row >= 8 && k >= 8 ? -x : x;
    });
  }
}

void append_second(std::vector<float>& values, const TensorStep& step, const TensorLayout& layout) {
  const int in = step.sizes.in_w;
  for (int tile = 0; tile < layout.second_tiles; ++tile)
    for (int parity = 0; parity < layout.parities; ++parity)
      for (int at = 0; at < layout.second_steps; ++at)
        append_coefficient(values, [&](int row, int k) {
          const int pair = tile * 16 + row;
          const int slot = at * 16 + k;
          const int j = slot % layout.term_slots;
          if (pair >= layout.pairs || slot >= layout.parity_slots || j >= layout.coarse) return 0.0;
          const Matrix& factor = step.terms[static_cast<size_t>(slot / layout.term_slots)]->w;
          if (layout.parities == 1) return factor(pair, j);
          // The even slot is x + x', the odd one x - x'; that of a middle column is 2 x.
          const double near = factor(pair, j);
          const double far = factor(pair, in - 1 - j);
          return 0.5 * (parity == 0 ? near + far : near - far) * (2 * j + 1 == in ? 0.5 : 1.0);
        });
}

}  // namespace

Packed<float> pack_tensor(const Step& step, const LaunchPlan& plan) {
  const TensorStep tensor = tensor_step(step, plan.tile).value();
  const TensorLayout layout = tensor_layout(tensor.sizes, 1, plan.tile.thread_columns / 2);
  Packed<float> packed;
  std::vector<float>& values = packed.values;
  const auto here = [&] { return static_cast<int64_t>(values.size()); };
  append_first(values, tensor, layout);
  packed.w_at = here();
  append_second(values, tensor, layout);
  packed.starts_at = here();
  for (const int start : tensor.starts) {
    const int32_t bits = start;
    float value;
    std::memcpy(&value, &bits, 4);
    values.push_back(value);
  }
  packed.exact_h_at = here();
  for (const Term* term : tensor.terms)
    for (int64_t row = 0; row < term->h.rows; ++row)
      for (int64_t i = 0; i < term->h.cols; ++i) values.push_back(static_cast<float>(term->h(row, i)));
  packed.exact_w_at = here();
  for (int64_t column = 0; column < step.w.out; ++column)
    for (const Term* term : tensor.terms)
      for (int64_t j = 0; j < term->w.cols; ++j) values.push_back(static_cast<float>(term->w(column, j)));
  return packed;
}

}  // namespace ssg::cuda

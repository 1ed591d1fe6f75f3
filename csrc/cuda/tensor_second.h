// The MMA engine: the second contraction, from the slots to the output, and the epilogue.
#pragma once

#include "tensor.h"
#include "tensor_load.h"

namespace ssg::cuda {

// Adds the logits of this scale, `line` and `other`, to the weighted prior and rounds: the result is in `line`.
template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::finish(uint32_t (&line)[words], const uint32_t (&other)[words],
                                                float (&value)[per_thread]) const {
  constexpr int per_word = 4 / static_cast<int>(sizeof(S));
  const auto add = [&](const uint32_t (&from)[words], float weight, bool masks) {
    SSG_UNROLL
    for (int w = 0; w < words; ++w) {
      float each[per_word];
      unpack(each, from[w], S{});
      SSG_UNROLL
      for (int e = 0; e < per_word; ++e) {
        float& x = value[w * per_word + e];
        x = fused_multiply_add(weight, each[e], x);
        if (masks && is_minus_infinity(each[e])) x = each[e];
      }
    }
  };
  if (Sources == 2) add(other, weights.current[1], false);
  add(line, weights.current[0], Sources != 1);
  SSG_UNROLL
  for (int w = 0; w < words; ++w) {
    float each[per_word];
    SSG_UNROLL
    for (int e = 0; e < per_word; ++e) each[e] = value[w * per_word + e];
    line[w] = pack(each, S{});
  }
}

// A warp takes `rows_at_once` output rows and 16 columns, or pairs of them, at once.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_rows(int group) const {
  // With it, the compiler would hoist less for the largest maps of 16-bit logits, whose issue binds.
  constexpr bool has_plain_elements = has_one && (blocks_at_once > 1 || sizeof(S) == 4);
  const bool two = has_two && (!has_one || p.call.sources == 2);
  const bool plain = has_one && !two && this->plain();
  if (whole() && plain)
    write_items<has_one ? 1 : 0, has_one>(group);
  else if (whole() && two)
    write_items<has_two ? 2 : 0, has_two>(group);
  else if (has_plain_elements && plain)
    write_items<has_plain_elements ? 1 : 0, false>(group);
  else if (two)
    write_items<has_two ? 2 : 0, false>(group);
  else if (has_one)
    write_items<0, false>(group);
}

template <class S, int Parts, class Shape>
template <int Sources, bool InRuns>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_items(int group) const {
  const int rows = 8 * of<&L::row_blocks>();
  const int items = rows / rows_at_once * of<&L::second_tiles>();
  SSG_UNROLL_BY(1)
  for (int item = warp; item < items; item += kMmaWarps) {
    const int tile = Shape::sized ? item % of<&L::second_tiles>() : item / rows;
    const int local = Shape::sized ? item / of<&L::second_tiles>() * rows_at_once : item % rows;
    const int row = group * rows + local;
    if (exact_rows || row < size<&Z::out_h>()) {
      if constexpr (InRuns)
        write_runs<Sources>(row, local, tile);
      else
        write_elements<Sources>(row, local, tile);
    }
    if (Shape::sized) return;  // as many items as warps
  }
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::contract(Sums& sum, int lane, int local, int tile) const {
  uint32_t lanes[tiles];  // the slots that this lane gives to load_matrices
  SSG_UNROLL
  for (int i = 0; i < tiles; ++i) lanes[i] = pins ? pinned_rows[i] : row_at(lane, local, i);
  // Unrolled, the sums of four tiles would not leave enough registers for the coefficients of several steps.
  constexpr bool rolls = tiles == 4;
  SSG_UNROLL
  for (int r = 0; r < rows_at_once; ++r) clear(sum[r]);
  const Fragment* coefficients = constants<Fragment>(p.second) + lane + tile * 64 * parities * of<&L::second_steps>();
  SSG_UNROLL
  for (int o = 0; o < parities; ++o) {
    const int first = o * of<&L::parity_slots>();
    SSG_UNROLL_BY(rolls ? 1 : unrolled)
    for (int step = 0; step < of<&L::second_steps>(); ++step) {
      const Coefficient a = load_coefficient(coefficients, o * of<&L::second_steps>() + step);
      SSG_UNROLL
      for (int r = 0; r < rows_at_once; ++r) {
        Data<2, tiles> data;
        load_data(data, lanes, r * of<&L::row_bytes>() + (first + 16 * step) * slot, (first & 4) != 0);
        multiply(sum[r][o], a, data, !rolls && is_half(step, of<&L::parity_slots>()));
      }
    }
  }
}

// The weighted prior of one of what `for_all` calls.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::weigh(float (&value)[per_thread], const Sums& sum, int r, int half,
                                               int side) const {
  SSG_UNROLL
  for (int e = 0; e < per_thread; ++e) {
    value[e] = weights.prior * sum[r][0][e / 2][2 * half + e % 2];
    if constexpr (parities == 2)
      value[e] = fused_multiply_add(side == 0 ? weights.prior : -weights.prior,
                                    sum[r][parities - 1][e / 2][2 * half + e % 2], value[e]);
  }
}

// Strips whose logits are read and written in runs of neighbouring columns.
template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_runs(int row, int local, int tile) const {
  const int c = tile * 16 + lane / 4;
  const auto token = [&](int r, int half, int side) {
    const int column = c + 8 * half;
    return (row + r) * size<&Z::out_w>() + (side == 0 ? column : size<&Z::out_w>() - 1 - column);
  };
  // From the token that `current` and `out` stand at, in bytes. Steps from the first row take fewer instructions, and a
  // register more.
  const auto distance = [&](int r, int half, int side, int64_t bytes) {
    if (!pins && blocks_at_once > 1) return token(r, half, side) * bytes;
    const int64_t first = pins ? 0 : token(0, 0, side) * bytes;
    return first + (r * size<&Z::out_w>() + (side == 0 ? 8 : -8) * half) * bytes;
  };
  const auto exists = [&](int r, int half) {
    return (exact_rows || row + r < size<&Z::out_h>()) && (exact_columns || c + 8 * half < of<&L::pairs>());
  };
  // Requested before the products.
  uint32_t line[rows_at_once][2][parities][words];
  const int64_t current_bytes = bytes_of(p.call.current[0]);
  const S* from = first_of(p.call.current[0], current, true);
  for_all([&](int r, int half, int side) {
    const S* x = moved(from, distance(r, half, side, current_bytes));
    if (exists(r, half)) load_words(line[r][half][side], x);
  });
  Sums sum;
  contract(sum, lane, local, tile);
  const int64_t bytes = bytes_of(p.call.out);
  const S* to = first_of(p.call.out, out, true);
  for_all([&](int r, int half, int side) {
    float value[per_thread];
    weigh(value, sum, r, half, side);
    if (!exists(r, half)) return;
    uint32_t other[words];
    const S* x = moved(to, distance(r, half, side, bytes));
    if (Sources == 2) load_words(other, at(p.call.current[1], token(r, half, side), l * per_thread));
    finish<Sources>(line[r][half][side], other, value);
    store_words(const_cast<S*>(x), line[r][half][side]);
  });
}

}  // namespace ssg::cuda

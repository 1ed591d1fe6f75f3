// The MMA engine: the second contraction, from the slots to the output, and the epilogue.
#pragma once

#include "tensor.h"
#include "tensor_load.h"

namespace ssg::cuda {

// Adds the logits of this scale to the weighted prior, rounds and stores.
template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::finish(uint32_t (&line)[words], float (&value)[per_thread], int token,
                                                S* to) const {
  constexpr int per_word = 4 / static_cast<int>(sizeof(S));
  const int offset = (Sources == 0 ? here(l) & 3 : l) * per_thread;
  const auto load = [&](uint32_t (&to)[words], const Logits& logits) {
    const S* from = at(logits, token, offset);
    if (Sources > 0 || whole)
      load_words(to, from);
    else
      load_elements(to, from, offset);
  };
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
  if (Sources == 2 || (Sources == 0 && p.call.sources == 2)) {
    uint32_t other[words];
    load(other, p.call.current[1]);
    add(other, weights.current[1], false);
  }
  if (Sources > 0 || p.call.current[0].data != nullptr) {
    if (Sources == 0) load(line, p.call.current[0]);
    add(line, weights.current[0], Sources != 1);
  }
  uint32_t result[words];
  SSG_UNROLL
  for (int w = 0; w < words; ++w) {
    float each[per_word];
    SSG_UNROLL
    for (int e = 0; e < per_word; ++e) each[e] = value[w * per_word + e];
    result[w] = pack(each, S{});
  }
  if (Sources > 0) {
    store_words(to, result);
  } else {
    S* any = const_cast<S*>(at(p.call.out, token, offset));
    if (whole)
      store_words(any, result);
    else
      store_elements(any, result, offset);
  }
}

// A warp takes `rows_at_once` output rows and 16 columns, or pairs of them, at once.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_rows(int group) const {
  constexpr bool has_one = sizeof(S) == 4 || Parts == 1;
  constexpr bool has_two = sizeof(S) == 4 || Parts == 2;
  if (has_one && whole && plain)
    write_items<has_one ? 1 : 0>(group);
  else if (has_two && whole && p.call.sources == 2)
    write_items<has_two ? 2 : 0>(group);
  else
    write_items<0>(group);
}

template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_items(int group) const {
  const int rows = 8 * of<&L::row_blocks>();
  const int items = rows / rows_at_once * of<&L::second_tiles>();
  SSG_UNROLL_BY(1)
  for (int item = warp; item < items; item += kMmaWarps) {
    const int tile = Shape::sized ? item % of<&L::second_tiles>() : item / rows;
    const int local = Shape::sized ? item / of<&L::second_tiles>() * rows_at_once : item % rows;
    const int row = group * rows + local;
    if (exact_rows || row < size<&Z::out_h>()) write_item<Sources>(row, local, tile);
    if (Shape::sized) return;  // as many items as warps
  }
}

template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_item(int row, int local, int tile) const {
  const int lane = Sources == 0 ? here(this->lane) & 31 : this->lane;
  const int c = tile * 16 + lane / 4;
  const auto token = [&](int r, int half, int side) {
    const int column = c + 8 * half;
    return (row + r) * size<&Z::out_w>() + (side == 0 ? column : size<&Z::out_w>() - 1 - column);
  };
  // From the token that `current` and `out` stand at.
  const auto distance = [&](int r, int half, int side) {
    return pins ? r * size<&Z::out_w>() + 8 * half : token(r, half, side);
  };
  const auto exists = [&](int r, int half, int side) {
    if (!exact_rows && row + r >= size<&Z::out_h>()) return false;
    return exact_columns ||
           (c + 8 * half < of<&L::pairs>() && (side == 0 || 2 * (c + 8 * half) + 1 != size<&Z::out_w>()));
  };
  uint32_t line[rows_at_once][2][parities][words];  // requested before the products
  if constexpr (Sources > 0) {
    const S* from = current_columns();
    SSG_UNROLL
    for (int r = 0; r < rows_at_once; ++r) {
      SSG_UNROLL
      for (int half = 0; half < 2; ++half) {
        SSG_UNROLL
        for (int side = 0; side < parities; ++side)
          if (exists(r, half, side))
            load_words(line[r][half][side], from + distance(r, half, side) * p.call.current[0].token_stride);
      }
    }
  }
  uint32_t lanes[tiles];  // the slots that this lane gives to load_matrices
  SSG_UNROLL
  for (int i = 0; i < tiles; ++i)
    lanes[i] =
        memory + of<&L::slots_at>() + local * of<&L::row_bytes>() + chunk_at<2 * tiles>(lane % 16, 2 * i + lane / 16);
  // Unrolled, the sums of four tiles would not leave enough registers for the coefficients of several steps.
  constexpr bool rolls = tiles == 4;
  float sum[rows_at_once][parities][tiles][4];
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
        Data<2> data;
        load_data(data, lanes, r * of<&L::row_bytes>() + (first + 16 * step) * slot, (first & 4) != 0);
        multiply(sum[r][o], a, data, !rolls && is_half(step, of<&L::parity_slots>()));
      }
    }
  }
  S* to = Sources > 0 ? out_columns() : nullptr;
  SSG_UNROLL
  for (int r = 0; r < rows_at_once; ++r) {
    SSG_UNROLL
    for (int half = 0; half < 2; ++half) {
      SSG_UNROLL
      for (int side = 0; side < parities; ++side) {
        float value[per_thread];
        SSG_UNROLL
        for (int e = 0; e < per_thread; ++e) {
          value[e] = weights.prior * sum[r][0][e / 2][2 * half + e % 2];
          if constexpr (parities == 2)
            value[e] = fused_multiply_add(side == 0 ? weights.prior : -weights.prior,
                                          sum[r][parities - 1][e / 2][2 * half + e % 2], value[e]);
        }
        if (exists(r, half, side))
          finish<Sources>(line[r][half][side], value, token(r, half, side),
                          to + distance(r, half, side) * p.call.out.token_stride);
      }
    }
  }
}

}  // namespace ssg::cuda

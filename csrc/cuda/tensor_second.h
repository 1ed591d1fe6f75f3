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
  if (Sources == 2 || (Sources == 0 && has_two && p.call.sources == 2)) add(other, weights.current[1], false);
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
  constexpr bool has_one_in_rows = has_one && (blocks_at_once > 1 || sizeof(S) == 4);
  if (in_runs && has_one && plain)
    write_items<has_one ? 1 : 0, has_one>(group);
  else if (in_runs && has_two)
    write_items<has_two ? 2 : 0, has_two>(group);
  else if (has_one_in_rows && plain)
    write_items<has_one_in_rows ? 1 : 0, false>(group);
  else
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
    if (exact_rows || row < size<&Z::out_h>()) write_item<Sources, InRuns>(row, local, tile);
    if (Shape::sized) return;  // as many items as warps
  }
}

template <class S, int Parts, class Shape>
template <int Sources, bool InRuns>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_item(int row, int local, int tile) const {
  const Rows rows = InRuns ? Rows{} : rows_of(here(this->lane) & 31);
  const int lane = Sources > 0 ? this->lane : rows.lane;
  const int c = tile * 16 + (InRuns ? this->lane / 4 : rows.row);
  const auto token = [&](int r, int half, int side) {
    const int column = c + 8 * half;
    return (row + r) * size<&Z::out_w>() + (side == 0 ? column : size<&Z::out_w>() - 1 - column);
  };
  // From the token that `current` and `out` stand at.
  const auto distance = [&](int r, int half, int side) {
    return pins ? r * size<&Z::out_w>() + 8 * half : token(r, half, side);
  };
  const auto in_rows = [&](int r) { return exact_rows || row + r < size<&Z::out_h>(); };
  const auto exists = [&](int r, int half) { return in_rows(r) && (exact_columns || c + 8 * half < of<&L::pairs>()); };
  const auto count = [&](int r, int half) {
    return !in_rows(r) ? 0 : exact_columns ? 8 : of<&L::pairs>() - tile * 16 - 8 * half;
  };
  const auto for_all = [&](auto f) {
    SSG_UNROLL
    for (int r = 0; r < rows_at_once; ++r) {
      SSG_UNROLL
      for (int half = 0; half < 2; ++half) {
        SSG_UNROLL
        for (int side = 0; side < parities; ++side) f(r, half, side);
      }
    }
  };
  // Requested before the products.
  const bool has_current = Sources > 0 || p.call.current[0].data != nullptr;
  uint32_t line[rows_at_once][2][parities][words];
  Elements elements[rows_at_once][2][parities];
  // From a token to the next one.
  const auto bytes_of = [&](const Logits& logits) {
    const int64_t bytes = logits.token_stride * static_cast<int64_t>(sizeof(S));
    return InRuns ? bytes : here(bytes);
  };
  constexpr int apart = Rows::apart;
  const int64_t current_bytes = bytes_of(p.call.current[0]);
  const S* from = moved(current_columns(), InRuns ? 0 : (pins ? rows_of(this->lane) : rows).shift(current_bytes, pins));
  const auto request = [&](int r, int half, int side) {
    const S* x = moved(from, distance(r, half, side) * current_bytes);
    if (InRuns) {
      if (exists(r, half)) load_words(line[r][half][side], x);
      return;
    }
    rows.clear(elements[r][half][side]);  // zeros where there are no logits of this scale
    if (rows.in_strip && has_current)
      rows.load(elements[r][half][side], x, (side == 0 ? apart : -apart) * current_bytes, count(r, half));
  };
  // Elements of 16 bits take a register each, too many beside the products if two blocks share the registers.
  constexpr bool requests_first = InRuns || (Sources > 0 && blocks_at_once == 1);
  if (requests_first) for_all(request);
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
  if (Sources > 0 && !requests_first) for_all(request);
  const uint32_t stage = stage_of(local);
  if (!InRuns) converge();  // this warp has read its slots
  const int64_t bytes = bytes_of(p.call.out);
  S* to = moved(out_columns(), InRuns ? 0 : (pins ? rows_of(this->lane) : rows).shift(bytes, pins));
  for_all([&](int r, int half, int side) {
    float value[per_thread];
    SSG_UNROLL
    for (int e = 0; e < per_thread; ++e) {
      value[e] = weights.prior * sum[r][0][e / 2][2 * half + e % 2];
      if constexpr (parities == 2)
        value[e] = fused_multiply_add(side == 0 ? weights.prior : -weights.prior,
                                      sum[r][parities - 1][e / 2][2 * half + e % 2], value[e]);
    }
    if (InRuns && !exists(r, half)) return;
    uint32_t other[words];
    S* x = moved(to, distance(r, half, side) * bytes);
    if constexpr (InRuns) {
      if (Sources == 2) load_words(other, at(p.call.current[1], token(r, half, side), l * per_thread));
      finish<Sources>(line[r][half][side], other, value);
      store_words(x, line[r][half][side]);
    } else {
      Elements& each = elements[r][half][side];
      if (Sources == 0) request(r, half, side);
      rows.to_run(line[r][half][side], each, stage);
      if (Sources == 0 && has_two && p.call.sources == 2) {
        const Logits& from = p.call.current[1];
        const int64_t bytes = bytes_of(from);
        rows.clear(each);
        if (rows.in_strip)
          rows.load(each, at(from, token(r, half, side), rows.column), (side == 0 ? apart : -apart) * bytes,
                    count(r, half));
        converge();
        rows.to_run(other, each, stage);
      }
      finish<Sources>(line[r][half][side], other, value);
      rows.to_elements(each, line[r][half][side], stage);
      rows.store(x, (side == 0 ? apart : -apart) * bytes, count(r, half), each);
    }
  });
}

}  // namespace ssg::cuda

// The MMA engine: the first contraction, from the map to the slots of a group of output rows.
#pragma once

#include "tensor.h"

namespace ssg::cuda {

// A warp takes every eighth coarse column, or pair of mirrored columns.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::fill_slots(int group) const {
  constexpr int pairs = (Parts * tiles + 1) / 2;
  const int lane = this->lane;
  uint32_t at[2] = {pins ? pinned_slots : slots_at()};
  at[1] = (own_slot() & flip) == 0 ? at[0] + flip : at[0] - flip;
  uint32_t lanes[pairs];
  SSG_UNROLL
  for (int i = 0; i < pairs; ++i) lanes[i] = (pins ? pinned_map : here(map_at(lane))) ^ 32 * i;
  uint32_t window[pairs];
  if constexpr (windows) {
    const int start = p.starts[group];
    SSG_UNROLL
    for (int i = 0; i < pairs; ++i) window[i] = memory + chunk_at<Parts * tiles>(start + lane % 8, 2 * i + lane / 16);
  }
  const Fragment* coefficients = constants<Fragment>(p.first) + lane +
                                 group * 64 * (of<&L::first_tiles>() * of<&L::first_steps>() + (windows ? 1 : 0));
  SSG_UNROLL_BY(1)
  for (int j = warp; j < of<&L::coarse>(); j += kMmaWarps) {
    const int mirror = size<&Z::in_w>() - 1 - j;
    const uint32_t side[2] = {static_cast<uint32_t>(j * of<&L::column_bytes>()),
                              static_cast<uint32_t>(mirror * of<&L::column_bytes>())};
    SSG_UNROLL_BY(unrolled)
    for (int tile = 0; tile < of<&L::first_tiles>(); ++tile) {
      float sum[parities][tiles][4];
      clear(sum);
      SSG_UNROLL_BY(unrolled)
      for (int step = 0; step < of<&L::first_steps>(); ++step) {
        const Coefficient a = load_coefficient(coefficients, tile * of<&L::first_steps>() + step);
        SSG_UNROLL
        for (int o = 0; o < parities; ++o) {
          Data<Parts, tiles> data;
          load_data(data, lanes, side[o] + step * 16 * map_row);
          multiply(sum[o], a, data, is_half(step, size<&Z::in_h>()));
        }
      }
      if constexpr (parities == 2) {
        SSG_UNROLL
        for (int t = 0; t < tiles; ++t) {
          SSG_UNROLL
          for (int i = 0; i < 4; ++i) {
            const float x = sum[0][t][i];
            const float y = sum[parities - 1][t][i];
            sum[0][t][i] = x + y;
            sum[parities - 1][t][i] = x - y;
          }
        }
      }
      SSG_UNROLL
      for (int o = 0; o < parities; ++o) {
        uint32_t high[2][tiles];
        uint32_t low[2][tiles];
        SSG_UNROLL
        for (int t = 0; t < tiles; ++t) {
          uint32_t h[2];
          uint32_t r[2];
          split_sums(sum[o][t], minus_identity, h, r);
          SSG_UNROLL
          for (int half = 0; half < 2; ++half) {
            high[half][t] = h[half];
            low[half][t] = r[half];
          }
        }
        SSG_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int number = 2 * tile + half;
          const int term = of<&L::row_blocks>() == 2 ? number / 2 : number;
          const int block = of<&L::row_blocks>() == 2 ? number % 2 : 0;
          if (term < of<&L::dense_terms>()) put_slot(at, term, o, block, high[half], low[half]);
        }
      }
    }
    if constexpr (windows) {
      // Eight k of column j and eight of its mirror. Rows 0 to 7 are their sum, rows 8 to 15 their difference.
      float sum[1][tiles][4];
      clear(sum);
      Data<Parts, tiles> data;
      load_data(data, window, lane / 8 % 2 == 0 ? side[0] : side[1]);
      multiply(sum[0], load_coefficient(coefficients, of<&L::first_tiles>() * of<&L::first_steps>()), data, false);
      uint32_t high[2][tiles];
      uint32_t low[2][tiles];
      SSG_UNROLL
      for (int t = 0; t < tiles; ++t) {
        uint32_t h[2];
        uint32_t r[2];
        split_sums(sum[0][t], minus_identity, h, r);
        SSG_UNROLL
        for (int o = 0; o < 2; ++o) {
          high[o][t] = h[o];
          low[o][t] = r[o];
        }
      }
      SSG_UNROLL
      for (int o = 0; o < 2; ++o) put_slot(at, of<&L::dense_terms>(), o, 0, high[o], low[o]);
    }
    at[0] += 8 * slot;
    at[1] += 8 * slot;
  }
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::put_slot(const uint32_t (&at)[2], int term, int parity, int block,
                                                  const uint32_t (&high)[tiles], const uint32_t (&low)[tiles]) const {
  const int k = parity * of<&L::parity_slots>() + term * of<&L::term_slots>();
  const uint32_t offset = k * slot + block * 8 * of<&L::row_bytes>();
  const bool exchanged = (k & 4) != 0;
  write_shared((exchanged ? at[1] : at[0]) + offset, high);
  write_shared((exchanged ? at[0] : at[1]) + offset, low);
}

}  // namespace ssg::cuda

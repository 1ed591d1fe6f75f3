// The guidance kernel: the two contractions.
#pragma once

#include "guided.h"

namespace ssg::cuda {

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::fill_slots(int group) const {
  const int in_h = p.in_h.even + p.in_h.odd;
  const int in_w = p.in_w.even + p.in_w.odd;
  const int rows = group_pairs(group) * p.terms;
  const Lane own = Product::lane(lane, p.lanes_h);
  const int v = (warp & ((1 << p.column_warps_log) - 1)) * 8 * columns + own.column;
  Coefficients h = p.h;
  h.data = static_cast<const T*>(p.h.data) + group * p.h.group;
  const T* shared = coefficients + second_coefficients() + group * p.h.group;
  SSG_UNROLL_BY(1)
  for (int item = warp >> p.column_warps_log; item < p.row_tiles * p.map_tiles; item += warps >> p.column_warps_log) {
    const int map_tile = divide(item, p.by_row_tiles);
    const int row_tile = item - map_tile * p.row_tiles;
    const int j = map_tile * own.tile_maps + own.map;
    const T* data[Product::maps];
    SSG_UNROLL
    for (int m = 0; m < Product::maps; ++m) data[m] = map + (j + m < in_w ? j + m : in_w - 1) * in_h * p.columns;
    const auto source = Product::source(h, shared, row_tile, own);
    const auto even = Product::multiply(data, 0, p.in_h.even, p.columns, source, v);
    const auto odd =
        Product::multiply(data, p.in_h.even, p.in_h.odd, p.columns, Product::odd(source, h, p.in_h.even), v);
    SSG_UNROLL
    for (int m = 0; m < Product::maps; ++m) {
      SSG_UNROLL
      for (int r = 0; r < Product::rows; ++r) {
        const int row = row_tile * own.tile_rows + Product::row(own, r);
        const int pair = divide(row, p.by_terms);
        if (row < rows && j + m < in_w) put_slot(pair, row - pair * p.terms, j + m, v, even, odd, m, r);
      }
    }
  }
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::put_slot(int pair, int term, int j, int v, const Products& even,
                                             const Products& odd, int m, int r) const {
  const int slot =
      j < p.in_w.even ? term * p.in_w.even + j : p.terms * p.in_w.even + term * p.in_w.odd + j - p.in_w.even;
  const int row_stride = p.terms * (p.in_w.even + p.in_w.odd) * p.columns;
  T* to = slots + pair * p.sides_h * row_stride + slot * p.columns + v;
  Vec<T, columns> sum;
  Vec<T, columns> difference;
  SSG_UNROLL
  for (int c = 0; c < columns; ++c) {
    const T e = even.at[m][r][c];
    const T o = odd.at[m][r][c];
    sum.at[c] = e + o;
    difference.at[c] = e - o;
  }
  store_shared(reinterpret_cast<Vec<T, columns>*>(to), sum);
  if (p.sides_h == 2) store_shared(reinterpret_cast<Vec<T, columns>*>(to + row_stride), difference);
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::write_rows(int group, int buffer) const {
  const int rows = p.one_row ? 1 : group_pairs(group) * p.sides_h;
  const int slots_even = p.terms * p.in_w.even;
  const int slots_odd = p.terms * p.in_w.odd;
  const T* from = p.one_row ? map : slots;
  const Lane own = Product::lane(lane, p.lanes_w);
  const int v = (warp & ((1 << p.column_warps_log) - 1)) * 8 * columns + own.column;
  const int row_tiles = (rows + own.tile_maps - 1) >> own.tile_maps_log;
  SSG_UNROLL_BY(1)
  for (int item = warp >> p.column_warps_log; item < p.pair_tiles * row_tiles; item += warps >> p.column_warps_log) {
    const int row_tile = divide(item, p.by_pair_tiles);
    const int pair_tile = item - row_tile * p.pair_tiles;
    const int local = row_tile * own.tile_maps + own.map;
    const T* data[Product::maps];
    SSG_UNROLL
    for (int m = 0; m < Product::maps; ++m)
      data[m] = from + (local + m < rows ? local + m : 0) * (slots_even + slots_odd) * p.columns;
    const auto source = Product::source(p.w, coefficients, pair_tile, own);
    const auto even = Product::multiply(data, 0, slots_even, p.columns, source, v);
    const auto odd =
        Product::multiply(data, slots_even, slots_odd, p.columns, Product::odd(source, p.w, slots_even), v);
    SSG_UNROLL
    for (int m = 0; m < Product::maps; ++m) {
      const int row = local + m < rows ? output_row(group, local + m) : -1;
      if (row < 0 || v >= valid) continue;
      const Line line = line_of(row, local + m, buffer, v);
      SSG_UNROLL
      for (int r = 0; r < Product::rows; ++r) {
        const int pair = pair_tile * own.tile_rows + Product::row(own, r);
        if (pair >= p.pairs_w) continue;
        Few sum;
        Few difference;
        SSG_UNROLL
        for (int c = 0; c < columns; ++c) {
          const T e = even.at[m][r][c];
          const T o = odd.at[m][r][c];
          sum.at[c] = e + o;
          difference.at[c] = e - o;
        }
        const int mirror = p.out_w - 1 - pair;
        finish(line, pair, v, sum);
        if (p.sides_w == 2 && mirror != pair) finish(line, mirror, v, difference);
      }
    }
  }
}

}  // namespace ssg::cuda

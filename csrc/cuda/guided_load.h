// The guidance kernel: loading of logits, the coarse map and coefficients into shared memory.
#pragma once

#include "guided.h"

namespace ssg::cuda {

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::fetch(int group, int buffer) {
  if (p.call.current[0].data == nullptr) return;
  const int count = (group_pairs(group) * p.sides_h * p.out_w) << chunks_log();
  SSG_UNROLL_BY(1)
  for (int source = 0; source < p.call.sources; ++source) {
    S* to = reinterpret_cast<S*>(stage + buffer * p.stage_bytes + source * source_bytes());
    SSG_UNROLL_BY(1)
    for (int i = thread; i < count; i += threads) {
      const int offset = (i & ((1 << chunks_log()) - 1)) * per_chunk;
      const int token = i >> chunks_log();
      const int local = divide(token, p.by_out_w);
      const int row = output_row(group, local);
      if (row < 0 || offset >= valid) continue;
      const S* from = at(p.call.current[source], row * p.out_w + token - local * p.out_w, offset);
      S* chunk = to + token * p.columns + offset;
      if (p.current_aligned && offset + per_chunk <= valid) {
        copy_async_16(chunk, from);
      } else {
        SSG_UNROLL_BY(1)
        for (int e = 0; e < per_chunk && offset + e < valid; ++e) chunk[e] = from[e];
      }
    }
  }
  copy_async_commit();
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::store_coarse(int i, int j, int offset, const Values& value) const {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  T* to = map + (j * (p.in_h.even + p.in_h.odd) + i) * p.columns;
  SSG_UNROLL
  for (int e = 0; e < per_chunk; e += width) {
    Vec<T, width> part;
    SSG_UNROLL
    for (int k = 0; k < width; ++k) part.at[k] = value.at[e + k];
    store_shared(reinterpret_cast<Vec<T, width>*>(to + offset + e), part);
  }
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::butterfly(Values& a, Values& b) {
  SSG_UNROLL
  for (int e = 0; e < per_chunk; ++e) {
    const T sum = a.at[e] + b.at[e];
    b.at[e] = a.at[e] - b.at[e];
    a.at[e] = sum;
  }
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::load_map() const {
  const int count = (p.in_h.even * p.in_w.even) << chunks_log();
  const int in_h = p.in_h.even + p.in_h.odd;
  const int in_w = p.in_w.even + p.in_w.odd;
  SSG_UNROLL_BY(1)
  for (int n = thread; n < count; n += threads) {
    const int offset = (n & ((1 << chunks_log()) - 1)) * per_chunk;
    const int token = n >> chunks_log();
    const int i = divide(token, p.by_in_w_even);
    const int j = token - i * p.in_w.even;
    const bool pair_h = i < p.in_h.odd;
    const bool pair_w = j < p.in_w.odd;
    // A middle row or column has no mirror: its own values replace it, and the difference is not stored.
    const int mirror_i = pair_h ? in_h - 1 - i : i;
    const int mirror_j = pair_w ? in_w - 1 - j : j;
    const int tokens[4] = {i * in_w + j, i * in_w + mirror_j, mirror_i * in_w + j, mirror_i * in_w + mirror_j};
    Values sum[4];
    SSG_UNROLL
    for (int t = 0; t < 4; ++t) {
      SSG_UNROLL
      for (int e = 0; e < per_chunk; ++e) sum[t].at[e] = T(0);
    }
    SSG_UNROLL_BY(1)
    for (int source = 0; source < p.call.sources; ++source) {
      const Logits& from = p.call.previous[source];
      const S* base = at(from, 0, offset);
      const T weight = source == 0 ? weights.previous[0] : weights.previous[1];
      if (p.previous_aligned && offset + per_chunk <= valid) {
        Chunk chunk[4];
        SSG_UNROLL
        for (int t = 0; t < 4; ++t)
          chunk[t] = load_once(reinterpret_cast<const Chunk*>(base + tokens[t] * from.token_stride));
        SSG_UNROLL
        for (int t = 0; t < 4; ++t) {
          SSG_UNROLL
          for (int e = 0; e < per_chunk; ++e)
            sum[t].at[e] = fused_multiply_add(weight, T(to_float(chunk[t].at[e])), sum[t].at[e]);
        }
      } else {
        SSG_UNROLL
        for (int e = 0; e < per_chunk; ++e) {
          if (offset + e >= valid) break;
          SSG_UNROLL
          for (int t = 0; t < 4; ++t) {
            const T x = to_float(base[tokens[t] * from.token_stride + e]);
            sum[t].at[e] = fused_multiply_add(weight, x, sum[t].at[e]);
          }
        }
      }
    }
    Values& ee = sum[0];
    Values& eo = sum[1];
    Values& oe = sum[2];
    Values& oo = sum[3];
    if (pair_w) {
      butterfly(ee, eo);
      butterfly(oe, oo);
    }
    if (pair_h) {
      butterfly(ee, oe);
      butterfly(eo, oo);
      store_coarse(p.in_h.even + i, j, offset, oe);
      if (pair_w) store_coarse(p.in_h.even + i, p.in_w.even + j, offset, oo);
    }
    if (pair_w) store_coarse(i, p.in_w.even + j, offset, eo);
    store_coarse(i, j, offset, ee);
  }
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::load_coefficients() const {
  const int second = second_coefficients();
  copy_coefficients(coefficients, p.w, second);
  if (!p.one_row) copy_coefficients(coefficients + second, p.h, p.groups * p.h.group);
}

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::copy_coefficients(T* to, const Coefficients& from, int count) const {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  using Part = Vec<T, width>;
  const T* data = static_cast<const T*>(from.data);
  for (int n = thread * width; n < count; n += threads * width)
    store_shared(reinterpret_cast<Part*>(to + n), load_cached(reinterpret_cast<const Part*>(data + n)));
}

}  // namespace ssg::cuda

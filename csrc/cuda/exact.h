// The MMA engine: a strip whose values float16 cannot hold, in float32 multiply-adds, one output row after the other.
// What a row needs of the first contraction lies in the slots' memory: [term][coarse column][vocabulary column].
#pragma once

#include "tensor.h"

namespace ssg::cuda {

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::exact_strip(int first, int last, bool large) const {
  // Sums of the largest finite values would leave float32 on the way, if these were not made smaller.
  const float scale = large ? 1.0f / 1024 : 1.0f;
  auto* slots = reinterpret_cast<float*>(shared_memory() + of<&L::slots_at>());
  const int in_h = size<&Z::in_h>();
  const int in_w = size<&Z::in_w>();
  const int count = size<&Z::terms>() * in_w;
  const int rows = 8 * of<&L::row_blocks>();
  const int end = last * rows < size<&Z::out_h>() ? last * rows : size<&Z::out_h>();
  const int v = here(thread_index()) % columns;
  const int valid = this->valid();
  SSG_UNROLL_BY(1)
  for (int row = first * rows; row < end; ++row) {
    SSG_UNROLL_BY(1)
    for (int n = here(thread_index()) / columns; n < count; n += threads / columns) {
      const int term = n / in_w;
      const float* h = p.exact_h + (term * size<&Z::out_h>() + row) * in_h;
      float sum = 0.0f;
      SSG_UNROLL_BY(1)
      for (int source = 0; v < valid && source < p.call.sources; ++source) {
        const Logits& from = p.call.previous[source];
        const float weight = source == 0 ? weights.merge[0] : weights.merge[1];
        SSG_UNROLL_BY(1)
        for (int i = 0; i < in_h; ++i) {
          const float x = to_float(*at(from, i * in_w + n - term * in_w, v));
          sum = fused_multiply_add(h[i] * weight, x * scale, sum);
        }
      }
      slots[n * columns + v] = sum;
    }
    barrier();
    SSG_UNROLL_BY(1)
    for (int c = here(thread_index()) / columns; c < size<&Z::out_w>(); c += threads / columns) {
      const float* w = p.exact_w + c * count;
      float sum = 0.0f;
      SSG_UNROLL_BY(1)
      for (int n = 0; n < count; ++n) sum = fused_multiply_add(w[n], slots[n * columns + v], sum);
      if (v >= valid) continue;
      const int token = row * size<&Z::out_w>() + c;
      sum = weights.prior * sum * (large ? 1024.0f : 1.0f);
      if (p.call.current[0].data != nullptr) {
        const float x = to_float(*at(p.call.current[0], token, v));
        if (p.call.sources == 2)
          sum = fused_multiply_add(weights.current[1], to_float(*at(p.call.current[1], token, v)), sum);
        sum = fused_multiply_add(weights.current[0], x, sum);
        if (is_minus_infinity(x)) sum = x;
      }
      from_float(*const_cast<S*>(at(p.call.out, token, v)), sum);
    }
    barrier();
  }
}

}  // namespace ssg::cuda

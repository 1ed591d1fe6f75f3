// The kernel: the first contraction, from the coarse map to the slots.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_contract.h"
#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S, int Sources>
SSG_INLINE int64_t Task<T, S, Sources>::slot_of(int64_t term, int64_t j) const {
  const int64_t even = plan_.w.in_even();
  return j < even ? plan_.slot_even[term] + j : plan_.slot_odd[term] + j - even;
}

template <class T, class S, int Sources>
SSG_INLINE void Task<T, S, Sources>::put_slots(T* to, const Strip<T>& p, const Strip<T>& q) const {
  p.plus(q).store(to);
  p.minus(q).store(to + plan_.slots * strip);
}

template <class T, class S, int Sources>
template <int R>
inline void Task<T, S, Sources>::fill_dense(const Chunk& chunk) const {
  const int64_t terms = static_cast<int64_t>(plan_.dense_terms.size());
  for (int64_t j = 0; j < plan_.w.in; ++j) {
    int64_t to[R];
    for (int r = 0; r < R; ++r) {
      const int64_t row = chunk.begin + r;
      to[r] = (2 * (row / terms) * plan_.slots + slot_of(plan_.dense_terms[row % terms], j)) * strip;
    }
    for (int64_t g = 0; g < strips(); ++g) {
      Strip<T> p[R];
      Strip<T> q[R];
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA { p[r] = q[r] = Strip<T>::zero(); });
      const T* x = map_ + g * map_stride_ + j * strip;
      const T* odd = contract<T, R>(x, row_stride_, plan_.h.in_even(), plan_.h_coefficients.data() + chunk.offset, p);
      contract<T, R>(x + plan_.h.in_even() * row_stride_, row_stride_, plan_.h.in_odd(), odd, q);
      T* slots = slots_ + g * slots_stride_;
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA { put_slots(slots + to[r], p[r], q[r]); });
    }
  }
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::fill_banded(int64_t first, int64_t pairs, int64_t term, const Taps<T>& taps) const {
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int32_t* index = taps.index.data() + (first + pair) * taps.count();
    const T* coefficient = taps.coefficient.data() + (first + pair) * taps.count();
    for (int64_t j = 0; j < plan_.w.in; ++j) {
      const int64_t to = (2 * pair * plan_.slots + slot_of(term, j)) * strip;
      for (int64_t g = 0; g < strips(); ++g) {
        const T* x = map_ + g * map_stride_ + j * strip;
        Strip<T> p = Strip<T>::zero();
        Strip<T> q = Strip<T>::zero();
        int64_t tap = 0;
        for (; tap < taps.even; ++tap) p.multiply_add(coefficient[tap], Strip<T>::load(x + index[tap] * row_stride_));
        for (; tap < taps.count(); ++tap)
          q.multiply_add(coefficient[tap], Strip<T>::load(x + index[tap] * row_stride_));
        put_slots(slots_ + g * slots_stride_ + to, p, q);
      }
    }
  }
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::fill_slots(int64_t block) const {
  for (const Chunk& chunk : plan_.block_chunks[static_cast<size_t>(block)]) {
    switch (chunk.rows) {
      case 1: fill_dense<1>(chunk); break;
      case 2: fill_dense<2>(chunk); break;
      case 3: fill_dense<3>(chunk); break;
      case 4: fill_dense<4>(chunk); break;
      case 5: fill_dense<5>(chunk); break;
      case 6: fill_dense<6>(chunk); break;
    }
  }
  const int64_t first = block * plan_.block_pairs;
  for (size_t b = 0; b < plan_.banded_terms.size(); ++b)
    fill_banded(first, block_end(block) - first, plan_.banded_terms[b], plan_.h_taps[b]);
}

}  // namespace ssg::cpu::SSG_NAMESPACE

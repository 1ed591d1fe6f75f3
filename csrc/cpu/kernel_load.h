// The kernel: loading of the coarse map, in even/odd coordinates.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S, int Sources>
SSG_INLINE Strip<T> Task<T, S, Sources>::load_previous(const S* from, int64_t g) const {
  if (__builtin_expect(g < full_, 1)) return Convert<T, S>::load(from + g * strip);
  alignas(64) S padded[strip] = {};
  std::memcpy(padded, from + g * strip, static_cast<size_t>(partial_) * sizeof(S));
  return Convert<T, S>::load(padded);
}

template <class T, class S, int Sources>
SSG_INLINE Strip<T> Task<T, S, Sources>::load_coarse(int64_t i, int64_t j, int64_t g) const {
  const int64_t token = i * plan_.w.in + j;
  Strip<T> value =
      load_previous(previous_[0] + token * call_.previous[0].token_stride, g).times(weight_[call_.sources]);
  if (Sources == 2)
    value.multiply_add(weight_[3], load_previous(previous_[1] + token * call_.previous[1].token_stride, g));
  return value;
}

template <class T, class S, int Sources>
SSG_INLINE void Task<T, S, Sources>::butterfly(Strip<T>& a, Strip<T>& b) {
  const Strip<T> sum = a.plus(b);
  b = a.minus(b);
  a = sum;
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::load_map() {
  const Axis& h = plan_.h;
  const Axis& w = plan_.w;
  const int64_t odd_i = h.in_even() * row_stride_;
  const int64_t odd_j = w.in_even() * strip;
  for (int64_t i = 0; i < h.in_even(); ++i) {
    const bool pair_h = i < h.in_odd();
    for (int64_t j = 0; j < w.in_even(); ++j) {
      const bool pair_w = j < w.in_odd();
      for (int64_t g = 0; g < strips(); ++g) {
        T* to = map_ + g * map_stride_ + i * row_stride_ + j * strip;
        Strip<T> ee = load_coarse(i, j, g);
        Strip<T> eo = pair_w ? load_coarse(i, w.in - 1 - j, g) : Strip<T>::zero();
        Strip<T> oe = pair_h ? load_coarse(h.in - 1 - i, j, g) : Strip<T>::zero();
        Strip<T> oo = pair_h && pair_w ? load_coarse(h.in - 1 - i, w.in - 1 - j, g) : Strip<T>::zero();
        if (pair_w) {
          butterfly(ee, eo);
          butterfly(oe, oo);
        }
        if (pair_h) {
          butterfly(ee, oe);
          butterfly(eo, oo);
          oe.store(to + odd_i);
          if (pair_w) oo.store(to + odd_i + odd_j);
        }
        if (pair_w) eo.store(to + odd_j);
        ee.store(to);
      }
    }
  }
}

template <class T, class S, int Sources>
template <int Write>
SSG_INLINE void Task<T, S, Sources>::prefetch(const S* from, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(from) + byte, Write);
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::prefetch_previous(int64_t block) const {
  if (next_bytes_ == 0) return;
  const int64_t tokens = plan_.h.in * plan_.w.in;
  for (int64_t token = block * tokens / plan_.blocks; token < (block + 1) * tokens / plan_.blocks; ++token)
    for (int64_t s = 0; s < call_.sources; ++s)
      prefetch<0>(next_previous_[s] + token * call_.previous[s].token_stride, next_bytes_);
}

}  // namespace ssg::cpu::SSG_NAMESPACE

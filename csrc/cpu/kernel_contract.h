// The product that both contractions are made of.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

// sum[r] += sum_k coefficient[k][r] * x[k]
template <class T, int R>
SSG_INLINE const T* contract(const T* x, int64_t stride, int64_t length, const T* coefficient, Strip<T> (&sum)[R]) {
  for (int64_t k = 0; k < length; ++k, x += stride, coefficient += R) {
    const Strip<T> value = Strip<T>::load(x);
    unroll<R>([&](auto r) SSG_INLINE_LAMBDA { sum[r].multiply_add(coefficient[r], value); });
  }
  return coefficient;
}

}  // namespace ssg::cpu::SSG_NAMESPACE

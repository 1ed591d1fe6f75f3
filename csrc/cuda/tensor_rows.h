// The MMA engine: rows of strips that are not whole, eight at a time. Accesses of 16 bytes do not reach them, since they
// are not aligned or lack columns. Lane n loads and stores elements n, n + 32, ... of the eight rows, so that neighbouring
// lanes access neighbouring elements. The contractions want a run of neighbouring elements in each lane, so the rows pass
// through shared memory, where they lie one after the other.
#pragma once

#include "tensor.h"

namespace ssg::cuda {

// Loads the elements of this lane that exist: `count` of the rows do. `x` is the first one's address, `distance` leads to
// the next one.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::Rows::load(Elements& to, const S* x, int64_t distance, int count) const {
  SSG_UNROLL
  for (int e = 0; e < per_thread; ++e, x = moved(x, distance))
    if (row + e * apart < count) to[e] = load_once(x);
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::Rows::store(S* x, int64_t distance, int count, const Elements& from) const {
  if (!in_strip) return;
  SSG_UNROLL
  for (int e = 0; e < per_thread; ++e, x = moved(x, distance))
    if (row + e * apart < count) store_global(x, from[e]);
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::Rows::put(uint32_t stage, const Elements& from) const {
  SSG_UNROLL
  for (int e = 0; e < per_thread; ++e) store_shared(shared_pointer<S>(stage) + lane + 32 * e, from[e]);
}

// Each of these two writes what this lane read when the other one ran. Where the other one did not run since, the warp has
// to converge before.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::Rows::to_run(uint32_t (&to)[words], const Elements& from,
                                                      uint32_t stage) const {
  put(stage, from);
  converge();
  const Run run = load_shared(shared_pointer<Run>(stage) + lane);
  SSG_UNROLL
  for (int w = 0; w < words; ++w) to[w] = run.at[w];
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::Rows::to_elements(Elements& to, const uint32_t (&from)[words],
                                                           uint32_t stage) const {
  Run run;
  SSG_UNROLL
  for (int w = 0; w < words; ++w) run.at[w] = from[w];
  store_shared(shared_pointer<Run>(stage) + lane, run);
  converge();
  SSG_UNROLL
  for (int e = 0; e < per_thread; ++e) to[e] = load_shared(shared_pointer<S>(stage) + lane + 32 * e);
}

}  // namespace ssg::cuda

// The guidance kernel: the epilogue, which adds the logits of this scale, rounds and stores.
#pragma once

#include "guided.h"

namespace ssg::cuda {

template <class S, class Product>
SSG_DEVICE void Guided<S, Product>::finish(const Line& line, int c, int v, Few& value) const {
  if (p.call.current[0].data != nullptr) {
    const S* from = line.logits + (c << p.columns_log);
    const Stored logit = load_shared(reinterpret_cast<const Stored*>(from));
    SSG_UNROLL
    for (int e = 0; e < columns; ++e)
      value.at[e] = fused_multiply_add(weights.current[0], T(to_float(logit.at[e])), value.at[e]);
    if (p.call.sources == 2) {
      const auto* second = reinterpret_cast<const unsigned char*>(from) + p.stage_bytes / 2;
      const Stored other = load_shared(reinterpret_cast<const Stored*>(second));
      SSG_UNROLL
      for (int e = 0; e < columns; ++e)
        value.at[e] = fused_multiply_add(weights.current[1], T(to_float(other.at[e])), value.at[e]);
    }
    SSG_UNROLL
    for (int e = 0; e < columns; ++e) {
      const T x = to_float(logit.at[e]);
      if (is_minus_infinity(x)) value.at[e] = x;
    }
  }
  S* to = line.out + c * p.call.out.token_stride;
  Stored out;
  SSG_UNROLL
  for (int e = 0; e < columns; ++e) from_float(out.at[e], value.at[e]);
  if (p.out_aligned && v + columns <= valid) {
    store_global(reinterpret_cast<Stored*>(to), out);
  } else {
    SSG_UNROLL
    for (int e = 0; e < columns; ++e)
      if (v + e < valid) to[e] = out.at[e];
  }
}

}  // namespace ssg::cuda

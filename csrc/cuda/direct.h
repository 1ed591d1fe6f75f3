// The direct form of the guidance step, for maps that shared memory cannot hold: a thread per output element.
#pragma once

#include "device.h"
#include "params.h"
#include "strength.h"

namespace ssg::cuda {

// A block takes one token after another; its threads take the columns.
template <class S, class T>
SSG_DEVICE void run_direct(const DirectParams& p) {
  const GuidedCall& call = p.call;
  const int tokens = p.out_h * p.out_w;
  int token = static_cast<int>(block_index()) % tokens;
  for (int64_t batch = static_cast<int>(block_index()) / tokens; batch < call.batch;) {
    const int row = token / p.out_w;
    const int c = token % p.out_w;
    const Weights<T> weights = read_weights<T>(call, batch);
    const auto place = [&](const Logits& logits) {
      return static_cast<const S*>(logits.data) + batch * logits.batch_stride + token * logits.token_stride;
    };
    for (int64_t v = thread_index(); v < call.vocabulary; v += thread_count()) {
      T sum = T(0);
      SSG_UNROLL_BY(1)
      for (int source = 0; source < call.sources; ++source) {
        const Logits& from = call.previous[source];
        const T weight = source == 0 ? weights.previous[0] : weights.previous[1];
        const S* x = static_cast<const S*>(from.data) + batch * from.batch_stride + v;
        for (int term = 0; term < p.terms; ++term) {
          const T* h = static_cast<const T*>(p.h) + (static_cast<int64_t>(term) * p.out_h + row) * p.in_h;
          const T* w = static_cast<const T*>(p.w) + (static_cast<int64_t>(term) * p.out_w + c) * p.in_w;
          for (int i = 0; i < p.in_h; ++i) {
            if (h[i] == T(0)) continue;  // most entries of an interpolation's factor
            T inner = T(0);
            const S* at = x + static_cast<int64_t>(i) * p.in_w * from.token_stride;
            for (int j = 0; j < p.in_w; ++j, at += from.token_stride)
              inner = fused_multiply_add(w[j], T(to_float(*at)), inner);
            sum = fused_multiply_add(weight * h[i], inner, sum);
          }
        }
      }
      if (call.current[0].data != nullptr) {
        const T logit = to_float(place(call.current[0])[v]);
        sum = fused_multiply_add(weights.current[0], logit, sum);
        if (call.sources == 2)
          sum = fused_multiply_add(weights.current[1], T(to_float(place(call.current[1])[v])), sum);
        if (is_minus_infinity(logit)) sum = logit;
      }
      from_float(const_cast<S*>(place(call.out))[v], sum);
    }
    for (token += static_cast<int>(block_count()); token >= tokens; token -= tokens) ++batch;
  }
}

}  // namespace ssg::cuda

// One row of logits as the sampling kernels see it: integer keys of the same order, and whole-number weights.
#pragma once

#include <cstdint>
#include <cstring>

#include "call.h"
#include "device.h"
#include "strength.h"

namespace ssg::cuda {

#include "../weight.h"

// The bits as which logits of a type are stored, and their keys. Keys have the order of the numbers. Both zeros have
// one key, and a NaN lies beyond the infinities.
template <class S>
struct Keys {
  using Stored = uint16_t;
  using Key = uint32_t;
};
template <>
struct Keys<float> {
  using Stored = uint32_t;
  using Key = uint32_t;
};
template <>
struct Keys<double> {
  using Stored = uint64_t;
  using Key = uint64_t;
};

SSG_DEVICE double value_of(float, uint32_t bits) { return float_of(bits); }
SSG_DEVICE double value_of(double, uint64_t bits) { return double_of(bits); }
template <class S>
SSG_DEVICE double value_of(S, uint32_t bits) {
  return to_float(S{static_cast<uint16_t>(bits)});
}
SSG_DEVICE uint32_t infinity_of(float) { return 0x7f800000u; }
SSG_DEVICE uint64_t infinity_of(double) { return 0x7ff0000000000000u; }
SSG_DEVICE uint32_t infinity_of(BFloat16) { return 0x7f80u; }
SSG_DEVICE uint32_t infinity_of(Float16) { return 0x7c00u; }

// One row of logits, as keys and weights.
template <class S>
struct Row {
  using Stored = typename Keys<S>::Stored;
  using Key = typename Keys<S>::Key;
  static constexpr Key kSign = Key{1} << (8 * sizeof(Stored) - 1);
  static constexpr Key kAll = kSign | (kSign - 1);

  const SampleCall& call;
  const Stored* logits = nullptr;
  double scale = 1.0;
  int64_t top_k = 0;
  double top_p = 0.0;
  double share = 0.0;  // of the remaining weight, which lies before the drawn token
  double largest = 0.0;

  SSG_DEVICE void open(int64_t row) {
    const int64_t batch = row / call.tokens;
    const int64_t token = row - batch * call.tokens;
    const Logits& from = call.logits;
    logits = static_cast<const Stored*>(from.data) + batch * from.batch_stride + token * from.token_stride;
    scale = read_strength(call.scale, batch);
    const int64_t at = batch * call.uniform_batch_stride + token * call.uniform_token_stride;
    const double uniform = call.uniform_is_double ? static_cast<const double*>(call.uniform)[at]
                                                  : static_cast<const float*>(call.uniform)[at];
    share = within_one(uniform);
    const double k = read_strength(call.top_k, batch);
    top_k = k > 0 ? (k < static_cast<double>(call.vocabulary) ? static_cast<int64_t>(k) : call.vocabulary) : 0;
    top_p = within_one(read_strength(call.top_p, batch));
  }

  static SSG_DEVICE double within_one(double x) { return x > 0 ? (x < 1 ? x : 1.0) : 0.0; }  // 0 for NaN

  SSG_DEVICE Key key(int64_t v) const {
    const Key bits = logits[v] == kSign ? 0 : logits[v];
    return (bits & kSign) != 0 ? bits ^ kAll : bits | kSign;
  }
  static SSG_DEVICE Key bits_of(Key key) { return (key & kSign) != 0 ? key ^ kSign : key ^ kAll; }

  // Whether a token can be drawn from a row whose keys lie in [low, high]. Remembers the largest logit, to which
  // weights are relative.
  SSG_DEVICE bool begin(Key low, Key high) {
    const Key infinity = infinity_of(S{}) | kSign;
    const Key minus_infinity = infinity_of(S{}) ^ (kSign - 1);
    largest = value_of(S{}, bits_of(high));
    return low >= minus_infinity && high < infinity && high != minus_infinity && scale > 0 &&
           scale < double_of(0x7ff0000000000000u);
  }

  SSG_DEVICE uint64_t weight(Key key) const {
    const double x = (value_of(S{}, bits_of(key)) - largest) * scale;
    return x > -25.0 ? static_cast<uint64_t>(weight_of(x)) : 0;
  }

  // The limits that a running weight must exceed: for the first token that top-p keeps, and for the token drawn.
  SSG_DEVICE uint64_t limit(uint64_t total) const { return part(1 - top_p, total); }
  SSG_DEVICE uint64_t target(uint64_t total) const { return part(share, total); }
  static SSG_DEVICE uint64_t part(double of, uint64_t total) {
    const auto found = static_cast<uint64_t>(of * static_cast<double>(total));
    return found < total ? found : total - 1;
  }
};

}  // namespace ssg::cuda

// One row of logits as the sampling kernels see it: values, integer keys of the same order, and the numbers of the call.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "call.h"
#include "device.h"
#include "strength.h"

namespace ssg::cuda {

#include "../weight.h"

// A token's rank among others: its key, then its place.
template <class Bits>
struct Rank {
  uint64_t both;
  SSG_DEVICE Rank(Bits key, uint32_t place) : both(static_cast<uint64_t>(key) << 32 | place) {}
  SSG_DEVICE Bits key() const { return static_cast<Bits>(both >> 32); }
  SSG_DEVICE uint32_t place() const { return static_cast<uint32_t>(both); }
  SSG_DEVICE bool operator>(const Rank& other) const { return both > other.both; }
};
template <>
struct Rank<uint64_t> {
  uint64_t its_key;
  uint64_t its_place;
  SSG_DEVICE Rank(uint64_t key, uint32_t place) : its_key(key), its_place(place) {}
  SSG_DEVICE uint64_t key() const { return its_key; }
  SSG_DEVICE uint32_t place() const { return static_cast<uint32_t>(its_place); }
  SSG_DEVICE bool operator>(const Rank& other) const {
    return its_key > other.its_key || (its_key == other.its_key && its_place > other.its_place);
  }
};

// The arguments of a launch: the call, and its numbers that are not tensors.
struct SampleParams {
  SampleCall call;
  int64_t rows = 0;
  float scale = 1.0f;
  int64_t top_k = 0;
  uint64_t top_p = 0;  // a share, as weight.h counts them
};
inline SampleParams sample_params(const SampleCall& call) {
  SampleParams params;
  params.call = call;
  params.rows = call.batch * call.tokens;
  params.scale = scale_of(call.scale.value);
  params.top_k = static_cast<int64_t>(call.top_k.value);
  params.top_p = share_of(call.top_p.value);
  return params;
}

// The bits as which logits of a type are stored, and the type they are computed in.
template <class S>
struct Stores {
  using Bits = uint16_t;
  using Value = float;
};
template <>
struct Stores<float> {
  using Bits = uint32_t;
  using Value = float;
};
template <>
struct Stores<double> {
  using Bits = uint64_t;
  using Value = double;
};

SSG_DEVICE float value_of(float, uint32_t bits) { return float_of(bits); }
SSG_DEVICE double value_of(double, uint64_t bits) { return double_of(bits); }
template <class S>
SSG_DEVICE float value_of(S, uint16_t bits) {
  return to_float(S{bits});
}
constexpr SSG_DEVICE uint32_t infinity_of(float) { return 0x7f800000u; }
constexpr SSG_DEVICE uint64_t infinity_of(double) { return 0x7ff0000000000000u; }
constexpr SSG_DEVICE uint16_t infinity_of(BFloat16) { return 0x7f80u; }
constexpr SSG_DEVICE uint16_t infinity_of(Float16) { return 0x7c00u; }

template <class S>
struct Row {
  using Bits = typename Stores<S>::Bits;
  using Value = typename Stores<S>::Value;
  using Key = std::conditional_t<sizeof(Bits) == 8, uint64_t, uint32_t>;  // a word that holds a key
  static constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  static constexpr Bits kMinusInfinity = static_cast<Bits>(infinity_of(S{}) | kSign);

  const Bits* logits = nullptr;
  float scale = 1.0f;    // 0 for one without an answer
  int64_t top_k = 0;     // 0 keeps all
  uint64_t top_p = 0;    // 0 keeps all
  uint64_t uniform = 0;  // the share of the weights that lies before the drawn token

  SSG_DEVICE Row(const SampleParams& p, int64_t row) {
    const SampleCall& call = p.call;
    const int64_t batch = quotient(row, call.tokens);
    const int64_t token = row - batch * call.tokens;
    const Logits& from = call.logits;
    logits = static_cast<const Bits*>(from.data) + batch * from.batch_stride + token * from.token_stride;
    const int64_t at = batch * call.uniform_batch_stride + token * call.uniform_token_stride;
    uniform = call.uniform_is_double ? share_of(static_cast<const double*>(call.uniform)[at])
                                     : share_of(static_cast<const float*>(call.uniform)[at]);
    scale = call.scale.data != nullptr ? scale_of(read_strength(call.scale, batch)) : p.scale;
    top_k = p.top_k;
    if (call.top_k.data != nullptr) {
      const double k = read_strength(call.top_k, batch);
      top_k = k > 0 ? static_cast<int64_t>(k < 0x1p31 ? k : 0x1p31) : 0;
    }
    top_p = call.top_p.data != nullptr ? share_of(read_strength(call.top_p, batch)) : p.top_p;
  }

  static SSG_DEVICE int64_t quotient(int64_t a, int64_t b) {
    if ((a | b) >> 32 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
  }

  static SSG_DEVICE Value value(Bits bits) { return value_of(S{}, bits); }
  static SSG_DEVICE Value minus_infinity() { return value(kMinusInfinity); }
  SSG_DEVICE Bits bits(int64_t v) const { return logits[v]; }

  SSG_DEVICE bool is_aligned() const { return reinterpret_cast<uintptr_t>(logits) % 16 == 0; }

  static SSG_DEVICE Bits bits_from(Value value) {
    S stored;
    from_float(stored, value);
    Bits bits;
    memcpy(&bits, &stored, sizeof(bits));
    return bits;
  }

  // Keys have the order of the numbers, and both zeros have one key.
  static SSG_DEVICE Bits key(Bits bits) {
    bits = bits == kSign ? Bits{0} : bits;
    return static_cast<Bits>((bits & kSign) != 0 ? ~bits : bits | kSign);
  }

  static SSG_DEVICE Bits bits_of_key(Bits key) { return static_cast<Bits>((key & kSign) != 0 ? key ^ kSign : ~key); }

  // The next larger number.
  static SSG_DEVICE Value next(Value x) { return value(bits_of_key(static_cast<Bits>(key(bits_from(x)) + 1))); }

  // Whether a token can be drawn from a row with this largest logit, which is NaN if the row holds one.
  SSG_DEVICE bool has_answer(Value largest) const { return largest - largest == 0 && scale > 0; }
};

// A weight as the float that it is before it is cut to a whole number. Codes have the order of the weights.
constexpr uint64_t kMostWeight = uint64_t{1} << 39;
constexpr uint32_t kLeastCode = 127u << 23;  // of those that weigh anything
constexpr uint32_t kFarthest = 4 * kFar;
SSG_DEVICE uint32_t code_of(uint32_t distances) {  // four times the distance
  const Weight weight(distances);
  return weight.significand + multiply_add(weight.octave, 1u << 23, 124u << 23);
}
SSG_DEVICE uint64_t weight_of(uint32_t code) { return static_cast<uint64_t>(float_of(code)); }

// The weights of a row's logits.
template <class Value>
struct Weigher : Places<Value> {
  Value least;  // a place where tokens weigh nothing

  SSG_DEVICE Weigher(Value largest, float scale)
      : Places<Value>(largest, scale), least(static_cast<Value>(this->top - static_cast<int32_t>(kFar))) {}

  // Four times the distance of a finite logit or -inf, or about that of `least`.
  SSG_DEVICE uint32_t distances(Value x) const {
    const Value at = (x - this->origin) * static_cast<Value>(this->factor);
    const int32_t place = truncated(larger(at, least));
    return multiply_add(static_cast<uint32_t>(place), -4u, static_cast<uint32_t>(this->top) * 4);
  }
  SSG_DEVICE uint64_t weight(Value x) const { return weight_of(code_of(distances(x))); }
};

}  // namespace ssg::cuda

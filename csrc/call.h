// What a call hands to a kernel, whichever device it runs on. cpu/ and cuda/ add what only they need.
#pragma once

#include <cstdint>

namespace ssg {

// Logits are one of the first four; the tensor of a strength may be any of them.
enum class Scalar : int8_t { float32, bfloat16, float16, float64, uint8, int8, int16, int32, int64, boolean };

constexpr int64_t item_bytes(Scalar scalar) {
  switch (scalar) {
    case Scalar::float64:
    case Scalar::int64: return 8;
    case Scalar::float32:
    case Scalar::int32: return 4;
    case Scalar::bfloat16:
    case Scalar::float16:
    case Scalar::int16: return 2;
    default: return 1;
  }
}

// (B, tokens, V) logits with a contiguous vocabulary; strides in elements.
struct Logits {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
};

// A number per sample: data[b * stride], or `value` for all samples where data is null.
struct Strength {
  const void* data = nullptr;
  int64_t stride = 0;  // in elements; 0 for a 0-d tensor
  Scalar scalar = Scalar::float32;
  double value = 0.0;
};

// One guided step. A source is one set of logits of both scales: there is one, or with cfg two, the conditional half
// before the unconditional one. Where current[0] is -inf, so is `out`.
struct GuidedCall {
  Scalar scalar = Scalar::float32;
  int64_t batch = 0;
  int64_t vocabulary = 0;
  int64_t sources = 1;
  Logits current[2];  // current[0].data may be null: `out` is then the prior's part alone
  Logits previous[2];
  Logits out;  // written; may be current[0] itself
};

// One token per row, by top-k, top-p and the inverse CDF of a uniform number. ssg_kernels.reference.sample_weights
// defines the result. Row r = b * tokens + t.
struct SampleCall {
  Scalar scalar = Scalar::float32;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t vocabulary = 0;
  Logits logits;
  const void* uniform = nullptr;
  bool uniform_is_double = false;  // else float32
  int64_t uniform_batch_stride = 0;
  int64_t uniform_token_stride = 0;
  int64_t* out = nullptr;  // [batch][tokens]; -1 for a row without a finite largest logit
};

}  // namespace ssg

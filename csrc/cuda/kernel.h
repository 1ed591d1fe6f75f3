// The CUDA kernels' launch interface: neither a torch nor a CUDA header, so the binding compiles without a toolkit.
#pragma once

#include <cstdint>
#include <string>

#include "../plan.h"

namespace ssg::cuda {

// What logits may be are the first four; a strength's tensor may be any of them.
enum class Scalar : int8_t { float32, float64, bfloat16, float16, uint8, int8, int16, int32, int64, boolean };

// (B, tokens, V) logits on the device with a contiguous vocabulary; strides in elements.
struct Logits {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
};

// A number per sample, read on the device: data[b * stride], or `value` for all where data is null.
struct Strength {
  const void* data = nullptr;
  int64_t stride = 0;  // in elements; 0 for a 0-d tensor
  Scalar scalar = Scalar::float32;
  double value = 0.0;
};

// With one source:  out = (1 + beta) * current[0] - beta * P previous[0]
// With two:         out = (1 + beta) * ((1 + t) current[0] - t current[1]) - beta * P((1 + t') previous[0] - t'
// previous[1]) Without current:  out = beta * P previous[0] where t is cfg and t' is prev_cfg. Where current[0] is
// -inf, so is out.
struct Step {
  Scalar scalar = Scalar::float32;
  int64_t batch = 0;
  int64_t vocabulary = 0;
  int64_t sources = 1;
  Logits current[2];  // current[0].data may be null: then out is the prior's part alone
  Logits previous[2];
  Logits out;  // written; may be current[0] itself
  Strength beta;
  Strength cfg;
  Strength prev_cfg;
};

// One token per row, by top-k, top-p and the inverse CDF: see ssg_kernels.reference.sample_weights.
struct Sampling {
  Scalar scalar = Scalar::float32;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t vocabulary = 0;
  Logits logits;
  const void* uniform = nullptr;  // float64 or float32
  bool uniform_is_double = false;
  int64_t uniform_batch_stride = 0;
  int64_t uniform_token_stride = 0;
  Strength scale;     // 1 / temperature
  int64_t top_k = 0;  // 0 keeps all
  double top_p = 0.0;
  int64_t* out = nullptr;  // (batch, tokens), contiguous; -1 for a row without a finite largest logit
};

// Why this device cannot be served, or null where it can. Asks the driver once per device.
const char* unavailable(int device);

// Enqueues the whole step on `stream`, a cudaStream_t of `device`, which must be the current device. Nothing is
// synchronised but for the first use of a key, whose factors are uploaded; that is allowed during stream capture too.
// Throws std::runtime_error with CUDA's own text.
void run(const StepKey& key, const Step& step, int device, void* stream);

// The same for sampling; nothing is uploaded.
void sample(const Sampling& sampling, int device, void* stream);

// How `run` would launch the step on a device of this kind, for people.
std::string describe(const StepKey& key, const Step& step, int compute_capability, int multiprocessors);

}  // namespace ssg::cuda

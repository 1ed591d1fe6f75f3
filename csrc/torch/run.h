// From checked arguments to the kernels of a device.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/kernel.h"
#include "cuda/kernel.h"
#include "tensor.h"

#if defined(SSG_HAVE_CUDA)
#include <torch/csrc/stable/accelerator.h>

// Weak, so that the extension loads where torch has no CUDA; torch's header would need CUDA's to declare it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace ssg::ops {

// Fills in what does not depend on the strengths.
void fill(GuidedCall& call, int64_t sources, const Operand& logits, const Operand& prev_logits, const Operand& out);

// An array that lies on the stack for the usual batches, else on the heap.
class Numbers {
 public:
  explicit Numbers(int64_t count) {
    if (static_cast<size_t>(count) > few_.size()) many_.resize(static_cast<size_t>(count));
  }
  double* data() { return many_.empty() ? few_.data() : many_.data(); }

 private:
  std::array<double, 64> few_;
  std::vector<double> many_;
};

// cpu::Parallel on torch's threads.
void in_parallel(int64_t tasks, int64_t grain, cpu::Body body, const void* context);

#if defined(SSG_HAVE_CUDA)
inline bool torch_has_cuda() { return aoti_torch_get_current_cuda_stream != nullptr; }

// Calls launch(device, stream) with torch's current stream on the device of x, which becomes the current device.
template <class Launch>
void on_current_stream(const Operand& x, Launch&& launch) {
  const torch::stable::accelerator::DeviceGuard guard(x.device.index);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.device.index, &stream));
  launch(x.device.index, stream);
}
#endif

void run(const StepKey& key, const cpu::GuidedCall& call);
#if defined(SSG_HAVE_CUDA)
void run(const StepKey& key, const cuda::GuidedCall& call, const Operand& logits);
#endif

}  // namespace ssg::ops

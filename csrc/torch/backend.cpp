#include "backend.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cuda/kernel.h"
#include "run.h"
#include "tensor.h"

namespace ssg::ops {

const char* cuda_unavailable([[maybe_unused]] int32_t device) {
#if defined(SSG_HAVE_CUDA)
  if (!torch_has_cuda()) return "this torch has no CUDA";
  return cuda::unavailable(device);
#else
  return "this build has no CUDA kernels";
#endif
}

bool serves(StableIValue first) {
  const Device device = device_of(torch::stable::detail::to<AtenTensorHandle>(first));
  const char* asked = std::getenv("SSG_KERNELS_BACKEND");
  if (asked != nullptr && *asked != '\0' && std::strcmp(asked, device.is_cpu() ? "cpu" : "cuda") != 0) return false;
  return device.is_cpu() || cuda_unavailable(device.index) == nullptr;
}

void fall_back(const std::string& op, const std::string& overload, StableIValue* stack) {
  const std::string twin = "ssg::_fallback_" + op.substr(op[0] == '_' ? 1 : 0);
  // The twin takes the arguments over and returns (result, problem). It never raises, since the text would be lost
  // here.
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(twin.c_str(), overload.c_str(), stack, TORCH_ABI_VERSION));
  const Tensor text = torch::stable::detail::to<Tensor>(stack[1]);
  if (text.numel() == 0) return;
  const Tensor unused = torch::stable::detail::to<Tensor>(stack[0]);
  throw std::runtime_error(
      std::string(static_cast<const char*>(text.const_data_ptr()), static_cast<size_t>(text.numel())));
}

}  // namespace ssg::ops

#include "backend.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "cuda/kernel.h"
#include "library.h"
#include "names.h"
#include "run.h"
#include "text.h"

namespace ssg::ops {
namespace {

// The values of SSG_KERNELS_BACKEND. ssg_kernels/_names.py has the same.
constexpr std::string_view kBackends[] = {"reference", "cpu", "triton", "cuda"};

std::string_view asked_backend() {
  const char* asked = std::getenv("SSG_KERNELS_BACKEND");
  return asked == nullptr ? "" : asked;
}

std::atomic<bool> python_takes_the_rest{false};
std::atomic<uint32_t> python_takes_families{0};  // a bit for each

#if defined(SSG_HAVE_CUDA)
bool python_takes(int32_t device) { return (python_takes_families >> (cuda::capability(device) / 10) & 1) != 0; }

// Coefficients lie in memory of torch's allocator, which may hold all of the device's. Nobody frees them.
void* allocate(size_t bytes, int device) {
  const auto size = static_cast<int64_t>(bytes);
  const int64_t stride = 1;
  AtenTensorHandle tensor = nullptr;
  void* data = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride, aoti_torch_dtype_uint8(),
                                                         aoti_torch_device_type_cuda(), device, &tensor));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &data));
  return data;
}
const bool allocates = (cuda::allocate_with(allocate), true);
#else
bool python_takes(int32_t) { return false; }
#endif

}  // namespace

void hand_over_the_rest(const std::vector<int>& families) {
  uint32_t bits = 0;
  for (const int family : families) bits |= uint32_t{1} << family;
  python_takes_families = bits;
  python_takes_the_rest = true;
}

const char* cuda_unavailable([[maybe_unused]] int32_t device) {
#if defined(SSG_HAVE_CUDA)
  if (!torch_has_cuda()) return "this torch has no CUDA: install a build of torch with CUDA";
  return cuda::unavailable(device);
#else
  return "this build has no CUDA kernels: install ssg-kernels with nvcc on the PATH";
#endif
}

bool serves(StableIValue first) {
  const Device device = device_of(torch::stable::detail::to<AtenTensorHandle>(first));
  const std::string_view asked = asked_backend();
  if (!asked.empty() && asked != (device.is_cpu() ? "cpu" : "cuda")) return false;
  if (device.is_cpu()) return true;
  return cuda_unavailable(device.index) == nullptr && !(asked.empty() && python_takes(device.index));
}

bool fall_back(const std::string& op, const std::string& overload, StableIValue* stack) {
  if (!python_takes_the_rest) return false;
  const std::string twin = SSG_NAMESPACE "::_fallback_" + op.substr(op[0] == '_' ? 1 : 0);
  // The twin takes the arguments over and returns (result, problem). It never raises, since the text would be lost
  // here.
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(twin.c_str(), overload.c_str(), stack, TORCH_ABI_VERSION));
  const Tensor text(stack[1]);
  if (text.numel() == 0) return true;
  const Tensor unused(stack[0]);
  throw std::runtime_error(
      std::string(static_cast<const char*>(text.const_data_ptr()), static_cast<size_t>(text.numel())));
}

void refuse(const char* op, const Device& device) {
  const std::string_view asked = asked_backend();
  const char* reason = device.is_cpu() ? "it serves no cpu tensors" : cuda_unavailable(device.index);
  if (asked.empty()) fail(op, ": no kernel of libssg_kernels serves tensors on ", device.text(), ": ", reason);
  if (std::find(std::begin(kBackends), std::end(kBackends), asked) == std::end(kBackends))
    fail("SSG_KERNELS_BACKEND must be one of reference, cpu, triton, cuda, got ", repr(asked));
  if (asked == "cpu") reason = "it serves no cuda tensors";
  if (asked == "reference" || asked == "triton") reason = "it needs Python, which has not loaded ssg_kernels here";
  fail("SSG_KERNELS_BACKEND=", asked, " cannot serve tensors on ", device.text(), ": ", reason);
}

}  // namespace ssg::ops

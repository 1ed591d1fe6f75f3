// The launcher of the guidance kernels: it knows the devices, caches plans, and keeps the coefficients on each device.
#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "check.h"
#include "kernel.h"
#include "kernels.h"
#include "launch_plan.h"
#include "pack.h"
#include "params.h"

namespace ssg::cuda {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

// ---- devices

struct Device {
  Machine machine;
  std::string unavailable;  // why it cannot serve; empty where it can
};

// Lets this thread load kernels, allocate and copy while it, or another thread, captures a stream.
class CaptureAllowsAll {
 public:
  CaptureAllowsAll() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode"); }
  ~CaptureAllowsAll() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  CaptureAllowsAll(const CaptureAllowsAll&) = delete;
  CaptureAllowsAll& operator=(const CaptureAllowsAll&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Makes the device the current one of this thread.
Device examine(int device) {
  Device found;
  try {
    check(cudaSetDevice(device), "cudaSetDevice");
    const CaptureAllowsAll relaxed;
    Machine& machine = found.machine;
    machine.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                         attribute(cudaDevAttrComputeCapabilityMinor, device);
    machine.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
    machine.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    machine.shared_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_of(Scalar::float32, 1, LaunchPlan{}));
    if (error != cudaSuccess) {
      cudaGetLastError();
      found.unavailable =
          "the kernels do not run on compute capability " + std::to_string(machine.capability / 10) + "." +
          std::to_string(machine.capability % 10) + " (" + cudaGetErrorString(error) +
          "): install ssg-kernels with CMAKE_ARGS=-DSSG_CUDA_ARCHITECTURES=" + std::to_string(machine.capability) +
          "-real";
    }
  } catch (const std::exception& error) {
    found.unavailable = error.what();
  }
  return found;
}

const Device& device_of(int device) {
  static std::mutex mutex;
  static auto& devices = *new std::map<int, Device>();
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = devices.find(device);
  if (found == devices.end()) {
    // Selecting a device creates a context on it. A thread of its own leaves the caller's current device as it is, so
    // no context appears on that one.
    Device examined;
    std::thread([&] { examined = examine(device); }).join();
    found = devices.emplace(device, std::move(examined)).first;
  }
  return found->second;
}

// ---- coefficients on a device

void* allocate_by_cuda(size_t bytes, int) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc");
  return data;
}

void* (*allocate)(size_t bytes, int device) = allocate_by_cuda;

const void* upload(const void* values, size_t bytes, int device) {
  void* const data = allocate(bytes, device);
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(data, values, bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  check(error, "copying the factors");
  return data;
}

// ---- launches

struct Launch {
  LaunchPlan plan;
  const void* function = nullptr;
  // Of these the plan's engine uses one.
  Params params;
  DenseParams dense;
  TensorParams tensor;
  DirectParams direct;
};

// Uploaded coefficients stay until the process ends, since captured graphs hold their addresses.
template <class T>
void attach_coefficients(Launch& launch, const Step& step, int device) {
  static std::mutex mutex;
  static auto& uploads = *new std::map<std::tuple<StepKey, int, int, int, int, int>, const T*>();
  const LaunchPlan& plan = launch.plan;
  const Packed<T> packed = pack<T>(step, plan);
  const std::lock_guard<std::mutex> lock(mutex);
  const T*& data = uploads[{step.key, static_cast<int>(plan.tile.engine), plan.tile.thread_columns, plan.tile.in,
                            plan.group_pairs, device}];
  if (data == nullptr)
    data = static_cast<const T*>(upload(packed.values.data(), packed.values.size() * sizeof(T), device));
  if (plan.is_direct()) {
    set_coefficients(launch.direct, packed, data);
  } else if (plan.tile.engine == Engine::dense) {
    set_coefficients(launch.dense, packed, data);
  } else if (plan.tile.engine == Engine::fma) {
    set_coefficients(launch.params, packed, data);
  } else if constexpr (sizeof(T) == 4) {
    set_coefficients(launch.tensor, packed, data);
  }
}

using LaunchKey = std::tuple<StepKey, Scalar, int64_t, bool, int64_t, int64_t, int>;

std::shared_ptr<const Launch> prepare(const StepKey& key, const GuidedCall& call, int device) {
  const CaptureAllowsAll relaxed;
  const Machine& machine = device_of(device).machine;
  const Step step = make_step(key);
  auto launch = std::make_shared<Launch>();
  launch->plan = plan_launch(step, call, machine);
  launch->function = kernel_of(call.scalar, call.sources, launch->plan);
  if (launch->plan.is_direct())
    launch->direct = direct_params_of(step, call);
  else if (launch->plan.tile.engine == Engine::dense)
    launch->dense = dense_params_of(step, launch->plan, call);
  else if (launch->plan.tile.engine == Engine::fma)
    launch->params = params_of(step, launch->plan, call);
  else
    launch->tensor = tensor_params_of(step, launch->plan, call);
  if (call.scalar == Scalar::float64)
    attach_coefficients<double>(*launch, step, device);
  else
    attach_coefficients<float>(*launch, step, device);
  if (!launch->plan.is_direct()) {
    // Every launch of a function sets the same values, so threads cannot disturb each other.
    check(cudaFuncSetAttribute(launch->function, cudaFuncAttributeMaxDynamicSharedMemorySize, machine.shared_per_block),
          "cudaFuncSetAttribute");
    check(cudaFuncSetAttribute(launch->function, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "cudaFuncSetAttribute");
  }
  return launch;
}

std::shared_ptr<const Launch> launch_of(const StepKey& key, const GuidedCall& call, int device) {
  const LaunchKey wanted{key,        call.scalar,     call.sources, call.current[0].data != nullptr,
                         call.batch, call.vocabulary, device};
  // Samplers repeat their calls: the last launch of this thread then serves without a lock.
  static thread_local std::pair<LaunchKey, std::shared_ptr<const Launch>> last;
  if (last.second && last.first == wanted) return last.second;
  static std::shared_mutex mutex;
  static auto& launches = *new std::map<LaunchKey, std::shared_ptr<const Launch>>();
  std::shared_ptr<const Launch> launch;
  {
    const std::shared_lock<std::shared_mutex> lock(mutex);
    const auto found = launches.find(wanted);
    if (found != launches.end()) launch = found->second;
  }
  if (!launch) {
    launch = prepare(key, call, device);
    const std::unique_lock<std::shared_mutex> lock(mutex);
    if (launches.size() >= 4096) launches.clear();  // a bound for a process that meets ever new sizes
    launches.emplace(wanted, launch);
  }
  last = {wanted, launch};
  return launch;
}

}  // namespace

const char* unavailable(int device) {
  const std::string& reason = device_of(device).unavailable;
  return reason.empty() ? nullptr : reason.c_str();
}

int capability(int device) { return device_of(device).machine.capability; }

void allocate_with(void* (*other)(size_t bytes, int device)) { allocate = other; }

void run(const StepKey& key, const GuidedCall& call, int device, void* stream) {
  if (call.batch == 0 || call.vocabulary == 0) return;
  if (const char* reason = unavailable(device)) throw std::runtime_error(reason);
  const std::shared_ptr<const Launch> launch = launch_of(key, call, device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const auto start = [&](auto params, int64_t blocks, int threads, int64_t shared_bytes) {
    set_call(params, call);
    void* arguments[] = {&params};
    check(cudaLaunchKernel(launch->function, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                           arguments, static_cast<size_t>(shared_bytes), queue),
          "launching the kernel");
  };
  const LaunchPlan& plan = launch->plan;
  if (plan.is_direct()) {
    const int64_t tokens = call.batch * launch->direct.out_h * launch->direct.out_w;
    start(launch->direct, tokens < (1 << 20) ? tokens : 1 << 20, 256, 0);
  } else if (plan.tile.engine == Engine::dense) {
    start(launch->dense, plan.blocks, plan.warps * 32, plan.shared_bytes);
  } else if (plan.tile.engine == Engine::fma) {
    start(launch->params, plan.blocks, plan.warps * 32, plan.shared_bytes);
  } else {
    start(launch->tensor, plan.blocks, plan.warps * 32, plan.shared_bytes);
  }
}

}  // namespace ssg::cuda

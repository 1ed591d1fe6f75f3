// Which devices get a context when the CUDA kernels look at device 1: run.cu on a runtime of its own, which notes who
// selects what. Prints "THREAD DEVICE" for each selection, where THREAD is "caller" or "other". What is not called here
// is not linked.
#include <cstdio>
#include <cstring>
#include <thread>

#include "../../csrc/cuda/run.cu"

namespace {
const std::thread::id kCaller = std::this_thread::get_id();
}

extern "C" {

cudaError_t cudaSetDevice(int device) {
  std::printf("%s %d\n", std::this_thread::get_id() == kCaller ? "caller" : "other", device);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return ""; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

}  // extern "C"

namespace ssg::cuda {
const void* kernel_of(Scalar, int64_t, const LaunchPlan&) { return nullptr; }
}  // namespace ssg::cuda

int main() {
  for (int call = 0; call < 2; ++call)
    if (ssg::cuda::unavailable(1) != nullptr) return 1;
  return 0;
}

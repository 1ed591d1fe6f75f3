// Turns CUDA's errors into exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace ssg::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which the next caller of the runtime would find
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error) +
                           ". SSG_KERNELS_BACKEND=triton, or reference, computes without the CUDA kernels");
}

}  // namespace ssg::cuda

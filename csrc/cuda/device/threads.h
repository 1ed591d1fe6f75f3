// The machine: what a thread knows of itself, barriers, and what the compiler may not move.
#pragma once

#include "base.h"

#if !defined(__CUDACC__)
#include "../host/threads.h"
#else

namespace ssg::cuda {

SSG_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
SSG_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
SSG_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
SSG_DEVICE int64_t block_count() { return static_cast<int64_t>(gridDim.x); }
SSG_DEVICE void barrier() { __syncthreads(); }

// x, of which nothing is computed earlier than here: for code that is rarely reached, and for sums that should stay
// as they are written.
SSG_DEVICE int here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
SSG_DEVICE uint32_t here(uint32_t x) { return static_cast<uint32_t>(here(static_cast<int>(x))); }
SSG_DEVICE int64_t here(int64_t x) {
  asm volatile("" : "+l"(x));
  return x;
}

// x + y, which the compiler joins with no other sum.
SSG_DEVICE int64_t stepped(int64_t x, int64_t y) {
  asm("add.s64 %0, %0, %1;" : "+l"(x) : "l"(y));
  return x;
}

// A barrier that tells all threads whether any of them came with a true condition.
SSG_DEVICE bool barrier_or(bool condition) {
  uint32_t any;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.or.pred q, 0, p; selp.u32 %0, 1, 0, q; }"
               : "=r"(any)
               : "r"(static_cast<uint32_t>(condition))
               : "memory");
  return any != 0;
}

}  // namespace ssg::cuda
#endif

// The marks of device functions, and the types that logits are stored as.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SSG_DEVICE __device__ __forceinline__
#define SSG_INLINE SSG_DEVICE
#define SSG_INLINE_ANYWHERE __host__ SSG_DEVICE
#define SSG_PRAGMA(text) _Pragma(#text)
#define SSG_UNROLL _Pragma("unroll")
#define SSG_UNROLL_BY(n) SSG_PRAGMA(unroll n)
#else
#define SSG_DEVICE inline
#define SSG_INLINE inline
#define SSG_INLINE_ANYWHERE inline
#define SSG_UNROLL
#define SSG_UNROLL_BY(n)
#endif

namespace ssg::cuda {

// The logits' 16-bit types, as bits.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// N values that are loaded and stored at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
};

}  // namespace ssg::cuda

// What the kernels use of the machine. nvcc compiles these functions to instructions. For a plain C++ compiler
// host/device.h defines the same functions; there the threads of a block are fibers.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SSG_DEVICE __device__ __forceinline__
#define SSG_INLINE SSG_DEVICE
#define SSG_PRAGMA(text) _Pragma(#text)
#define SSG_UNROLL _Pragma("unroll")
#define SSG_UNROLL_BY(n) SSG_PRAGMA(unroll n)
#else
#define SSG_DEVICE inline
#define SSG_INLINE inline
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

#if !defined(__CUDACC__)
#include "host/device.h"
#else

namespace ssg::cuda {

SSG_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
SSG_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
SSG_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
SSG_DEVICE int64_t block_count() { return static_cast<int64_t>(gridDim.x); }
SSG_DEVICE void barrier() { __syncthreads(); }

SSG_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

// Memory

template <class V>
SSG_DEVICE V load_shared(const V* from) {
  return *from;
}
template <class V>
SSG_DEVICE void store_shared(V* to, const V& value) {
  *to = value;
}

// Loads constant data, which stays in the cache.
template <class V>
SSG_DEVICE V load_cached(const V* from) {
  static_assert(sizeof(V) == 16);
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
  V value;
  memcpy(&value, &bits, sizeof(V));
  return value;
}

// Loads logits that are read only once: 16 bytes or one element.
template <class V>
SSG_DEVICE V load_once(const V* from) {
  if constexpr (sizeof(V) == 16) {
    uint4 bits;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    V value;
    memcpy(&value, &bits, sizeof(V));
    return value;
  } else {
    return *from;
  }
}

template <class V>
SSG_DEVICE void store_global(V* to, const V& value) {
  *to = value;
}

SSG_DEVICE void copy_async_16(void* shared, const void* global) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global)
      : "memory");
}
SSG_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies. Those of other threads have arrived after their wait and a barrier.
SSG_DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Arithmetic

SSG_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SSG_DEVICE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

SSG_DEVICE float to_float(float x) { return x; }
SSG_DEVICE double to_float(double x) { return x; }
SSG_DEVICE float to_float(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
SSG_DEVICE float to_float(Float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
SSG_DEVICE void from_float(float& to, float x) { to = x; }
SSG_DEVICE void from_float(double& to, double x) { to = x; }
SSG_DEVICE void from_float(BFloat16& to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
SSG_DEVICE void from_float(Float16& to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }

SSG_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }

SSG_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
SSG_DEVICE float float_of(uint32_t x) { return __uint_as_float(x); }
SSG_DEVICE double double_of(uint64_t x) { return __longlong_as_double(static_cast<long long>(x)); }

// The value of another lane. All lanes of the warp must call it.
SSG_DEVICE uint64_t shuffle(uint64_t x, int lane) {
  return __shfl_sync(0xffffffffu, static_cast<unsigned long long>(x), lane);
}

// Adds 32-bit halves, since shared memory has no 64-bit addition. The sum is complete after a barrier.
SSG_DEVICE void add_shared(uint64_t* to, uint64_t x) {
  auto* half = reinterpret_cast<uint32_t*>(to);
  const auto low = static_cast<uint32_t>(x);
  auto high = static_cast<uint32_t>(x >> 32);
  if (low != 0 && atomicAdd(half, low) > ~low) ++high;
  if (high != 0) atomicAdd(half + 1, high);
}

// Brings the lanes of a warp together again, as the instructions below require.
SSG_DEVICE void converge() { __syncwarp(); }

// c += a b on the tensor cores, with a 16 x 8 (row g: a[0], a[2], row g + 8: a[1], a[3]; columns l and l + 4), b 8 x 8
// (rows l and l + 4, column g), c 16 x 8 (rows g and g + 8, columns 2 l and 2 l + 1), where g = lane / 4, l = lane % 4.
// Operands are tf32: the low 13 bits do not count. Layout: PTX ISA, "Matrix Fragments for mma.m16n8k8" and m16n8k4; the
// same as MMA_Traits<SM80_16x8x8_F32TF32TF32F32_TN> in CUTLASS's cute/atom/mma_traits_sm80.hpp.
SSG_DEVICE void mma_16x8x8(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm volatile(  // or a compiler could move it into a branch that only some lanes take
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(bits_of(a0)), "r"(bits_of(a1)), "r"(bits_of(a2)), "r"(bits_of(a3)), "r"(bits_of(b0)), "r"(bits_of(b1)));
}
// The same with four k: column l of a, row l of b.
SSG_DEVICE void mma_16x8x4(float (&c)[4], float a0, float a1, float b0) {
  asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(bits_of(a0)), "r"(bits_of(a1)), "r"(bits_of(b0)));
}

}  // namespace ssg::cuda
#endif

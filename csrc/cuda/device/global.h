// The machine: loads and stores of global memory.
#pragma once

#include "base.h"
#include "threads.h"

#if !defined(__CUDACC__)
#include "../host/global.h"
#else

namespace ssg::cuda {

// Loads constant data, which stays in the cache.
template <class V>
SSG_DEVICE V load_cached(const V* from) {
  static_assert(sizeof(V) == 16);
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
  V value;
  memcpy(&value, &bits, sizeof(V));
  return value;
}

// Constant data in global memory, which stay in the cache. Unlike load_cached this needs no address of its own for
// each of several loads.
template <class V>
SSG_DEVICE const V* constants(const void* data) {
  return static_cast<const V*>(__cvta_global_to_generic(__cvta_generic_to_global(data)));
}

// Brings constant data into the first-level cache, where a later load finds them.
SSG_DEVICE void bring_near(const void* at) {
  asm volatile("{ .reg .u32 unused;\nld.global.nc.u32 unused, [%0]; }" ::"l"(__cvta_generic_to_global(at)));
}

// Places in global memory by their addresses there.
SSG_DEVICE int64_t global_address(const void* at) { return static_cast<int64_t>(__cvta_generic_to_global(at)); }
template <class V>
SSG_DEVICE V* global_place(int64_t address) {
  return static_cast<V*>(__cvta_global_to_generic(static_cast<size_t>(address)));
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

// Words of logits that are read only once, and words of the result.
template <int N>
SSG_DEVICE void load_words(uint32_t (&x)[N], const void* from) {
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 1)
    asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(x[0]) : "l"(from));
  else if constexpr (N == 2)
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "l"(from));
  else
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "l"(from));
}
template <int N>
SSG_DEVICE void store_words(void* to, const uint32_t (&x)[N]) {
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 1)
    asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(x[0]) : "memory");
  else if constexpr (N == 2)
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(x[0]), "r"(x[1]) : "memory");
  else
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
}

// An element by its address in global memory. nvcc takes hours over pointers that step by step follow from each other.
SSG_DEVICE void load_element(float& x, int64_t from) { asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(from)); }
template <class S>
SSG_DEVICE void load_element(S& x, int64_t from) {
  static_assert(sizeof(S) == 2);
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(x.bits) : "l"(from));
}
SSG_DEVICE void store_element(int64_t to, float x) {
  asm volatile("st.global.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}
template <class S>
SSG_DEVICE void store_element(int64_t to, S x) {
  static_assert(sizeof(S) == 2);
  asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(x.bits) : "memory");
}

}  // namespace ssg::cuda
#endif

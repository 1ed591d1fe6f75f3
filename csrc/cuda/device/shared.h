// The machine: shared memory.
#pragma once

#include "base.h"
#include "threads.h"

#if !defined(__CUDACC__)
#include "../host/shared.h"
#else

namespace ssg::cuda {

SSG_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}
template <class V>
SSG_DEVICE V load_shared(const V* from) {
  return *from;
}
template <class V>
SSG_DEVICE void store_shared(V* to, const V& value) {
  *to = value;
}

// Adds to a sum in two halves, since shared memory has no 64-bit addition. It is complete after a barrier.
SSG_DEVICE void add_shared(uint32_t* low, uint32_t* high, uint64_t x) {
  const auto first = static_cast<uint32_t>(x);
  auto second = static_cast<uint32_t>(x >> 32);
  if (first != 0 && atomicAdd(low, first) > ~first) ++second;
  if (second != 0) atomicAdd(high, second);
}

// An address in shared memory. The functions whose names end with "if" or "unless" may do nothing, without a
// branch.
using SharedAddress = uint32_t;
SSG_DEVICE SharedAddress shared_address(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }
SSG_DEVICE void count_shared_if(uint32_t x, uint32_t high, SharedAddress to) {  // x <= high
  asm volatile("{ .reg .pred inside;\nsetp.le.u32 inside, %0, %1;\n@inside red.shared.add.u32 [%2], 1; }" ::"r"(x),
               "r"(high), "r"(to)
               : "memory");
}

// Adds the last 20 bits of a number to one sum, and the others to one that lies kApart bytes behind it, if x >= low.
template <int kApart>
SSG_DEVICE void add_shared_if(uint32_t x, uint32_t low, SharedAddress to, uint64_t number) {
  asm volatile(
      "{ .reg .pred inside;\n.reg .u32 first, second, none;\n.reg .u64 rest;\nmov.b64 {first, none}, %3;\n"
      "and.b32 first, first, 0xfffff;\nshr.u64 rest, %3, 20;\nmov.b64 {second, none}, rest;\n"
      "setp.ge.u32 inside, %0, %1;\n@inside red.shared.add.u32 [%2], first;\n"
      "@inside red.shared.add.u32 [%2+%4], second; }" ::"r"(x),
      "r"(low), "r"(to), "l"(number), "n"(kApart)
      : "memory");
}

// Stores x and steps to the next place, unless x < low.
SSG_DEVICE void append_shared_unless(float x, float low, SharedAddress& to) {
  asm volatile(
      "{ .reg .pred stays;\nsetp.geu.f32 stays, %1, %2;\n@stays st.shared.f32 [%0], %1;\n@stays add.u32 %0, %0, 4; }"
      : "+r"(to)
      : "f"(x), "f"(low)
      : "memory");
}
SSG_DEVICE void append_shared_unless(double x, double low, SharedAddress& to) {
  asm volatile(
      "{ .reg .pred stays;\nsetp.geu.f64 stays, %1, %2;\n@stays st.shared.f64 [%0], %1;\n@stays add.u32 %0, %0, 8; }"
      : "+r"(to)
      : "d"(x), "d"(low)
      : "memory");
}

// Adds one, and returns what was there before.
SSG_DEVICE uint32_t claim_shared(uint32_t* to) { return atomicAdd(to, 1u); }

// Shared memory by its address there. Unlike pointers such addresses take 32 bits.
SSG_DEVICE uint32_t shared_base() { return static_cast<uint32_t>(__cvta_generic_to_shared(shared_memory())); }
template <class V>
SSG_DEVICE V* shared_pointer(uint32_t at) {
  return static_cast<V*>(__cvta_shared_to_generic(at));
}

// N words of 32 bits: 4, 8 or 16 bytes.
template <int N>
SSG_DEVICE void write_shared(uint32_t at, const uint32_t (&x)[N]) {
  Vec<uint32_t, N> value;
  memcpy(&value, x, sizeof(value));
  *static_cast<Vec<uint32_t, N>*>(__cvta_shared_to_generic(at)) = value;
}

}  // namespace ssg::cuda
#endif

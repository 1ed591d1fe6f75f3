// What the kernels use of the machine. nvcc compiles these functions to instructions. For a plain C++ compiler
// host/device.h defines the same functions; there the threads of a block are fibers.
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
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

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

// Constant data in global memory, which stay in the cache. Unlike load_cached this needs no address of its own for
// each of several loads.
template <class V>
SSG_DEVICE const V* constants(const void* data) {
  return static_cast<const V*>(__cvta_global_to_generic(__cvta_generic_to_global(data)));
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
SSG_DEVICE uint32_t multiply_high_add(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("mad.hi.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
SSG_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
SSG_DEVICE uint32_t population(uint32_t x) { return static_cast<uint32_t>(__popc(x)); }
SSG_DEVICE uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
// The whole product and sum.
SSG_DEVICE uint64_t multiply_add_wide(uint32_t a, uint32_t b, uint32_t c) {
  uint64_t sum;
  asm("{ .reg .u32 none;\n.reg .u64 wide;\nmov.u32 none, 0;\nmov.b64 wide, {%3, none};\n"
      "mad.wide.u32 %0, %1, %2, wide; }"
      : "=l"(sum)
      : "r"(a), "r"(b), "r"(c));
  return sum;
}

// Cut towards zero. A number beyond the integers becomes the nearest one.
SSG_DEVICE int32_t truncated(float x) { return __float2int_rz(x); }
SSG_DEVICE int32_t truncated(double x) { return __double2int_rz(x); }

SSG_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
SSG_DEVICE float float_of(uint32_t x) { return __uint_as_float(x); }
SSG_DEVICE double double_of(uint64_t x) { return __longlong_as_double(static_cast<long long>(x)); }
SSG_DEVICE uint64_t bits_of(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }

// The larger and the smaller number, or the positive NaN if one is NaN.
SSG_DEVICE float larger(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
SSG_DEVICE double larger(double a, double b) {
  return a != a || b != b ? double_of(0x7fffffffffffffff) : (a > b ? a : b);
}

SSG_DEVICE float smaller(float a, float b) {
  float c;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
SSG_DEVICE double smaller(double a, double b) { return -larger(-a, -b); }

// The value of another lane. All lanes of the warp must call it.
SSG_DEVICE uint32_t shuffle(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
SSG_DEVICE uint64_t shuffle(uint64_t x, int lane) {
  return __shfl_sync(0xffffffffu, static_cast<unsigned long long>(x), lane);
}

// The largest number in the warp. All its lanes must call it.
SSG_DEVICE uint32_t largest_of_warp(uint32_t x) { return __reduce_max_sync(0xffffffffu, x); }

// Adds to a sum in two halves, since shared memory has no 64-bit addition. It is complete after a barrier.
SSG_DEVICE void add_shared(uint32_t* low, uint32_t* high, uint64_t x) {
  const auto first = static_cast<uint32_t>(x);
  auto second = static_cast<uint32_t>(x >> 32);
  if (first != 0 && atomicAdd(low, first) > ~first) ++second;
  if (second != 0) atomicAdd(high, second);
}

// Adds the value of the lane that lies `distance` before, if there is one. All lanes of the warp must call it.
SSG_DEVICE void add_lane_before(uint32_t& x, int distance) {
  asm volatile(
      "{ .reg .pred inside;\n.reg .u32 other;\nshfl.sync.up.b32 other|inside, %0, %1, 0, -1;\n"
      "@inside add.u32 %0, %0, other; }"
      : "+r"(x)
      : "r"(distance));
}
SSG_DEVICE void add_lane_before(uint64_t& x, int distance) {
  asm volatile(
      "{ .reg .pred inside;\n.reg .u32 low, high, other_low, other_high;\n.reg .u64 other;\n"
      "mov.b64 {low, high}, %0;\nshfl.sync.up.b32 other_low|inside, low, %1, 0, -1;\n"
      "shfl.sync.up.b32 other_high|inside, high, %1, 0, -1;\nmov.b64 other, {other_low, other_high};\n"
      "@inside add.u64 %0, %0, other; }"
      : "+l"(x)
      : "r"(distance));
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
// Sets a bit of a mask unless x < low.
SSG_DEVICE void mark_unless(float x, float low, uint32_t& mask, uint32_t bit) {
  asm("{ .reg .pred stays;\nsetp.geu.f32 stays, %1, %2;\n@stays or.b32 %0, %0, %3; }"
      : "+r"(mask)
      : "f"(x), "f"(low), "r"(bit));
}
SSG_DEVICE void mark_unless(double x, double low, uint32_t& mask, uint32_t bit) {
  asm("{ .reg .pred stays;\nsetp.geu.f64 stays, %1, %2;\n@stays or.b32 %0, %0, %3; }"
      : "+r"(mask)
      : "d"(x), "d"(low), "r"(bit));
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

// Brings the lanes of a warp together, and shows each what the others wrote to shared memory.
SSG_DEVICE void converge() { __syncwarp(); }

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

// Two values in a word, the first one in the low half.
SSG_DEVICE void unpack_float16(float& a, float& b, uint32_t word) {
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
      : "=f"(a), "=f"(b)
      : "r"(word));
}
SSG_DEVICE uint32_t pack_float16(float a, float b) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(b), "f"(a));
  return word;
}
SSG_DEVICE uint32_t pack_bfloat16(float a, float b) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(b), "f"(a));
  return word;
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

// Matrices of 8 x 8 halves, transposed: lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m, a k each, of
// which a lane gets k = 2 (lane % 4) and the next, at column lane / 4: the layout of b below.
SSG_DEVICE void load_matrices(uint32_t at, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
SSG_DEVICE void load_matrices(uint32_t at, uint32_t (&r)[2]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(at)
               : "memory");
}

// c += a b on the tensor cores, in float16 with float32 sums; two halves a word. With g = lane / 4 and l = lane % 4:
// a is 16 x 16 (a[0]: row g, columns 2 l and 2 l + 1; a[1]: row g + 8; a[2], a[3]: the same at columns + 8), b is
// 16 x 8 (b0: rows 2 l and 2 l + 1, column g; b1: rows + 8), c is 16 x 8 (c[0], c[1]: row g, columns 2 l and 2 l + 1;
// c[2], c[3]: row g + 8). Layout: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
SSG_DEVICE void mma_16x8x16(float (&c)[4], const Vec<uint32_t, 4>& a, uint32_t b0, uint32_t b1) {
  asm volatile(  // or a compiler could move it into a branch that only some lanes take
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1));
}
// The same with eight k: a[0], a[1] and b0.
SSG_DEVICE void mma_16x8x8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b0));
}

}  // namespace ssg::cuda
#endif

// The machine: what the lanes of a warp do together.
#pragma once

#include "base.h"

#if !defined(__CUDACC__)
#include "../host/warp.h"
#else

namespace ssg::cuda {

// The value of another lane. All lanes of the warp must call it.
SSG_DEVICE uint32_t shuffle(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
SSG_DEVICE uint64_t shuffle(uint64_t x, int lane) {
  return __shfl_sync(0xffffffffu, static_cast<unsigned long long>(x), lane);
}

// The largest number in the warp. All its lanes must call it.
SSG_DEVICE uint32_t largest_of_warp(uint32_t x) { return __reduce_max_sync(0xffffffffu, x); }

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

// Brings the lanes of a warp together, and shows each what the others wrote to shared memory.
SSG_DEVICE void converge() { __syncwarp(); }

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

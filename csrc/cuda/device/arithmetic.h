// The machine: arithmetic, and the conversions between types.
#pragma once

#include "base.h"

#if !defined(__CUDACC__)
#include "../host/arithmetic.h"
#else

namespace ssg::cuda {

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

}  // namespace ssg::cuda
#endif

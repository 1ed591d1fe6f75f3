// Vectors of float and double by compiler vector extensions, and the conversions of the logits' dtypes.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define SSG_INLINE inline __attribute__((always_inline))
// For a lambda; stands after its parameters.
#define SSG_INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
#define SSG_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SSG_VECTOR_BYTES 32
#else
#define SSG_VECTOR_BYTES 16
#endif

namespace ssg::cpu::SSG_NAMESPACE {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// f(0), f(1), ... with constant arguments, so that arrays of vectors stay in registers.
template <class F, int... I>
SSG_INLINE void unroll(const F& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
SSG_INLINE void unroll(const F& f) {
  unroll(f, std::make_integer_sequence<int, N>{});
}

typedef float Floats __attribute__((vector_size(SSG_VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(SSG_VECTOR_BYTES)));

// scalar * x + sum
#if defined(__AVX512F__)
SSG_INLINE Floats fused(float scalar, Floats x, Floats sum) {
  return (Floats)_mm512_fmadd_ps(_mm512_set1_ps(scalar), (__m512)x, (__m512)sum);
}
SSG_INLINE Doubles fused(double scalar, Doubles x, Doubles sum) {
  return (Doubles)_mm512_fmadd_pd(_mm512_set1_pd(scalar), (__m512d)x, (__m512d)sum);
}
#elif defined(__FMA__)
SSG_INLINE Floats fused(float scalar, Floats x, Floats sum) {
  return (Floats)_mm256_fmadd_ps(_mm256_set1_ps(scalar), (__m256)x, (__m256)sum);
}
SSG_INLINE Doubles fused(double scalar, Doubles x, Doubles sum) {
  return (Doubles)_mm256_fmadd_pd(_mm256_set1_pd(scalar), (__m256d)x, (__m256d)sum);
}
#elif defined(__aarch64__)
SSG_INLINE Floats fused(float scalar, Floats x, Floats sum) {
  return (Floats)vfmaq_n_f32((float32x4_t)sum, (float32x4_t)x, scalar);
}
SSG_INLINE Doubles fused(double scalar, Doubles x, Doubles sum) {
  return (Doubles)vfmaq_n_f64((float64x2_t)sum, (float64x2_t)x, scalar);
}
#else
SSG_INLINE Floats fused(float scalar, Floats x, Floats sum) { return x * scalar + sum; }
SSG_INLINE Doubles fused(double scalar, Doubles x, Doubles sum) { return x * scalar + sum; }
#endif

template <class T>
struct Vector {
  static constexpr int lanes = SSG_VECTOR_BYTES / sizeof(T);
  typedef T Native __attribute__((vector_size(SSG_VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(SSG_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  Native native;

  static SSG_INLINE Vector zero() { return {Native{}}; }
  static SSG_INLINE Vector load(const T* from) { return {*reinterpret_cast<const Unaligned*>(from)}; }
  SSG_INLINE void store(T* to) const { *reinterpret_cast<Unaligned*>(to) = native; }
  SSG_INLINE Vector plus(const Vector& other) const { return {native + other.native}; }
  SSG_INLINE Vector minus(const Vector& other) const { return {native - other.native}; }
  SSG_INLINE Vector times(T scalar) const { return {native * scalar}; }
  // Explicitly fused where the processor can: a compiler could fuse one use of a formula and not another.
  SSG_INLINE void multiply_add(T scalar, const Vector& other) { native = fused(scalar, other.native, native); }
  // Sets -inf where `logit` is -inf, so that guidance keeps a sampler's mask.
  SSG_INLINE void keep_minus_infinity(const Vector& logit) {
    native = logit.native == -std::numeric_limits<T>::infinity() ? logit.native : native;
  }
};

// Loads and stores of a strip as logits of type S; `stream` writes past the cache.
template <class T, class S>
struct Convert;

// A strip is two vectors, so that a broadcast coefficient serves two multiply-adds.
template <class T>
struct Strip {
  static constexpr int lanes = Vector<T>::lanes;
  static constexpr int width = 2 * lanes;
  Vector<T> low;
  Vector<T> high;

  static SSG_INLINE Strip zero() { return {Vector<T>::zero(), Vector<T>::zero()}; }
  static SSG_INLINE Strip load(const T* from) { return {Vector<T>::load(from), Vector<T>::load(from + lanes)}; }
  SSG_INLINE void store(T* to) const {
    low.store(to);
    high.store(to + lanes);
  }
  SSG_INLINE Strip plus(const Strip& other) const { return {low.plus(other.low), high.plus(other.high)}; }
  SSG_INLINE Strip minus(const Strip& other) const { return {low.minus(other.low), high.minus(other.high)}; }
  SSG_INLINE Strip times(T scalar) const { return {low.times(scalar), high.times(scalar)}; }
  SSG_INLINE void multiply_add(T scalar, const Strip& other) {
    low.multiply_add(scalar, other.low);
    high.multiply_add(scalar, other.high);
  }
  SSG_INLINE void keep_minus_infinity(const Strip& logit) {
    low.keep_minus_infinity(logit.low);
    high.keep_minus_infinity(logit.high);
  }
};

template <class T>
SSG_INLINE void stream_line(void* to, const T& value) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(value));
#elif defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<const __m256i&>(value));
#elif defined(__x86_64__)
  _mm_stream_si128(static_cast<__m128i*>(to), reinterpret_cast<const __m128i&>(value));
#else
  std::memcpy(to, &value, sizeof(value));
#endif
}

SSG_INLINE void store_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>
struct Convert<T, T> {
  static SSG_INLINE Strip<T> load(const T* from) { return Strip<T>::load(from); }
  static SSG_INLINE void store(T* to, const Strip<T>& value) { value.store(to); }
  static SSG_INLINE void stream(T* to, const Strip<T>& value) {
    stream_line(to, value.low.native);
    stream_line(to + Strip<T>::lanes, value.high.native);
  }
};

typedef uint32_t Words __attribute__((vector_size(SSG_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(SSG_VECTOR_BYTES / 2)));
typedef uint16_t UnalignedHalves __attribute__((vector_size(SSG_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t UnalignedWords __attribute__((vector_size(SSG_VECTOR_BYTES), aligned(2), may_alias));

// A C cast between vectors of one size keeps the bits.
SSG_INLINE Vector<float>::Native as_floats(Words words) { return (Vector<float>::Native)words; }
SSG_INLINE Words as_words(Vector<float>::Native floats) { return (Words)floats; }

#if defined(__AVX512F__)
SSG_INLINE Vector<float>::Native widen(Halves halves) {
  // With the unmasked intrinsic gcc 12 warns of an uninitialised value.
  return reinterpret_cast<Vector<float>::Native>(_mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(halves)));
}
SSG_INLINE Halves narrow(Vector<float>::Native value) {
  return reinterpret_cast<Halves>(
      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
SSG_INLINE Vector<float>::Native widen(Halves halves) {
  return reinterpret_cast<Vector<float>::Native>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(halves)));
}
SSG_INLINE Halves narrow(Vector<float>::Native value) {
  return reinterpret_cast<Halves>(
      _mm256_cvtps_ph(reinterpret_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__aarch64__)
SSG_INLINE Vector<float>::Native widen(Halves halves) {
  return reinterpret_cast<Vector<float>::Native>(vcvt_f32_f16(reinterpret_cast<float16x4_t>(halves)));
}
SSG_INLINE Halves narrow(Vector<float>::Native value) {
  return reinterpret_cast<Halves>(vcvt_f16_f32(reinterpret_cast<float32x4_t>(value)));
}
#else
// Without conversion instructions. Multiplying with a power of two, which is exact, moves the exponent.
SSG_INLINE Vector<float>::Native widen(Halves halves) {
  const Words words = __builtin_convertvector(halves, Words);
  const Words magnitude = words & 0x7fff;
  const Words special = (magnitude << 13) | 0x7f800000;  // infinities and NaN
  const Words finite = as_words(as_floats(magnitude << 13) * 0x1p112f);
  return as_floats((magnitude >= 0x7c00 ? special : finite) | ((words & 0x8000) << 16));
}
SSG_INLINE Halves narrow(Vector<float>::Native value) {
  const Words words = as_words(value);
  const Words sign = (words >> 16) & 0x8000;
  const Words magnitude = words & 0x7fffffff;
  // Subnormal halves: adding 0.5 aligns the half's last bit with the float's last bit, where the addition rounds.
  const Words subnormal = as_words(as_floats(magnitude) + 0.5f) - 0x3f000000;
  const Words normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Words overflow = Words{} + 0x7c00;
  Words half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? overflow : half;
  half = magnitude > 0x7f800000 ? Words{} + 0x7e00 : half;
  return __builtin_convertvector(half | sign, Halves);
}
#endif

template <>
struct Convert<float, Float16> {
  static constexpr int lanes = Strip<float>::lanes;
  static SSG_INLINE Strip<float> load(const Float16* from) {
    return {{widen(*reinterpret_cast<const UnalignedHalves*>(from))},
            {widen(*reinterpret_cast<const UnalignedHalves*>(from + lanes))}};
  }
  static SSG_INLINE void store(Float16* to, const Strip<float>& value) {
    *reinterpret_cast<UnalignedHalves*>(to) = narrow(value.low.native);
    *reinterpret_cast<UnalignedHalves*>(to + lanes) = narrow(value.high.native);
  }
  static SSG_INLINE void stream(Float16* to, const Strip<float>& value) {
    const Halves halves[2] = {narrow(value.low.native), narrow(value.high.native)};
    Words line;
    std::memcpy(&line, halves, sizeof(line));
    stream_line(to, line);
  }
};

// A strip of bfloat16 keeps its even columns in `low` and its odd ones in `high`. So no lane has to move, and nothing
// else depends on the order of the columns.
template <>
struct Convert<float, BFloat16> {
  static SSG_INLINE Strip<float> load(const BFloat16* from) {
    const Words words = *reinterpret_cast<const UnalignedWords*>(from);
    return {{as_floats(words << 16)}, {as_floats(words & 0xffff0000)}};
  }
  static SSG_INLINE void store(BFloat16* to, const Strip<float>& value) {
    *reinterpret_cast<UnalignedWords*>(to) = narrow(value);
  }
  static SSG_INLINE void stream(BFloat16* to, const Strip<float>& value) { stream_line(to, narrow(value)); }

 private:
  // Round to nearest even. A NaN stays a NaN because its low half is zero: it comes from a widened bfloat16, from an
  // operation on infinities, or from a weight, whose NaN the task makes canonical.
  static SSG_INLINE Words rounded(Vector<float> value) {
    const Words words = as_words(value.native);
    return words + 0x7fff + ((words >> 16) & 1);
  }
  static SSG_INLINE Words narrow(const Strip<float>& value) {
    return (rounded(value.low) >> 16) | (rounded(value.high) & 0xffff0000);
  }
};

}  // namespace ssg::cpu::SSG_NAMESPACE

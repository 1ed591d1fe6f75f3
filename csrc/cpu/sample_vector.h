// What sampling does with vectors: the high halves of products, and lists of positions.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

typedef uint64_t Longs __attribute__((vector_size(SSG_VECTOR_BYTES)));

SSG_INLINE uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

SSG_INLINE uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

// Of the even lanes. A compiler would multiply all 64 bits.
SSG_INLINE Longs product_of_even(Words a, Words b) {
#if defined(__AVX512F__)
  return (Longs)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Longs)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (Longs)_mm_mul_epu32((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  return (Longs)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
  return ((Longs)a & 0xffffffff) * ((Longs)b & 0xffffffff);
#endif
}

SSG_INLINE Words multiply_high(Words a, Words b) {
  const Longs even = product_of_even(a, b) >> 32;
  const Longs odd = product_of_even((Words)((Longs)a >> 32), (Words)((Longs)b >> 32));
  return (Words)(even | (odd & 0xffffffff00000000));
}
SSG_INLINE Words multiply_high(Words a, uint32_t b) { return multiply_high(a, Words{} + b); }

template <class A, class B>
SSG_INLINE A multiply_high_add(A a, B b, uint32_t c) {
  return multiply_high(a, b) + c;
}

// Appends the positions `first` + i of the bits i that are set, in ascending order. There must be room for as many as the
// word has bits.
SSG_INLINE int64_t append_positions(uint64_t word, int64_t first, int32_t* positions, int64_t count) {
#if defined(__AVX512F__)
  constexpr int lanes = 16;
  __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(first)),
                                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int i = 0; i < 64; i += lanes) {
    const auto mask = static_cast<__mmask16>(word >> i);
    _mm512_storeu_si512(positions + count, _mm512_maskz_compress_epi32(mask, at));
    count += __builtin_popcount(mask);
    at = _mm512_add_epi32(at, _mm512_set1_epi32(lanes));
  }
#else
  for (; word != 0; word &= word - 1) positions[count++] = static_cast<int32_t>(first + __builtin_ctzll(word));
#endif
  return count;
}

}  // namespace ssg::cpu::SSG_NAMESPACE

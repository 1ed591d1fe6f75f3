// How the logits of each dtype are stored, and integers that have their order.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

// How the logits of a dtype are stored.
template <class S>
struct Format;

// Of a dtype in which values are computed.
template <class T, class Word, Word kInfinity>
struct FormatOfValue {
  using Bits = Word;
  using Value = T;
  static constexpr Bits infinity = kInfinity;
  static SSG_INLINE T value(Bits bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

template <>
struct Format<float> : FormatOfValue<float, uint32_t, 0x7f800000> {};

template <>
struct Format<double> : FormatOfValue<double, uint64_t, 0x7ff0000000000000> {};

template <>
struct Format<BFloat16> {
  using Bits = uint16_t;
  using Value = float;
  static constexpr Bits infinity = 0x7f80;
  static SSG_INLINE float value(Bits bits) { return Format<float>::value(static_cast<uint32_t>(bits) << 16); }
};

template <>
struct Format<Float16> {
  using Bits = uint16_t;
  using Value = float;
  static constexpr Bits infinity = 0x7c00;
  // Made from a float's bits without a subnormal float, since some threads flush those to zero.
  static SSG_INLINE float value(Bits bits) {
    const uint32_t magnitude = bits & 0x7fff;
    const bool is_subnormal = magnitude < 0x400;
    float value = Format<float>::value((magnitude << 13) + ((is_subnormal ? 113u : 112u) << 23));
    value -= is_subnormal ? 0x1p-14f : 0.0f;
    value = magnitude >= infinity ? Format<float>::value(Format<float>::infinity) : value;
    return bits >> 15 != 0 ? -value : value;
  }
};

template <class Bits>
constexpr int kSignBit = 8 * sizeof(Bits) - 1;
template <class Bits>
constexpr Bits kSign = static_cast<Bits>(Bits{1} << kSignBit<Bits>);

// Keys have the order of the numbers. Both zeros have one key, and a NaN lies beyond the infinities.
template <class Bits>
constexpr SSG_INLINE Bits key_of(Bits bits) {
  bits = bits == kSign<Bits> ? Bits{0} : bits;
  return static_cast<Bits>(bits ^ (static_cast<Bits>(-(bits >> kSignBit<Bits>)) | kSign<Bits>));
}

template <class Bits>
SSG_INLINE Bits bits_of(Bits key) {
  return static_cast<Bits>(key ^ (static_cast<Bits>((key >> kSignBit<Bits>)-1) | kSign<Bits>));
}

}  // namespace ssg::cpu::SSG_NAMESPACE

// The weight of a logit in sampling, step by step as ssg_kernels.reference.weigh computes it. It has the same bits on
// every processor: float additions, one float product and integers make it, and no compiler may fuse them
// (-ffp-contract=off, --fmad=false). To be included inside one namespace per instruction set, after <cstdint>, where
// SSG_INLINE, multiply_high (of 32 and of 64 bits) and truncated are defined.

constexpr uint32_t kFar = 28u << 25;  // the distance in units of 2^-25 nats from which on tokens weigh nothing
constexpr uint64_t kWhole = uint64_t{1} << 62;  // shares of a sum of weights are counted in units of 2^-62

// The scale as a float; 0 if it is not positive and finite.
SSG_INLINE_ANYWHERE float scale_of(double scale) {
  if (!(scale > 0 && scale - scale == 0)) return 0.0f;
  return static_cast<float>(scale > 0x1p-100 ? (scale < 0x1p100 ? scale : 0x1p100) : 0x1p-100);
}

// Where the logits of a row lie below the largest. T is float, or double for float64 logits.
template <class T>
struct Places {
  T origin;
  float factor;  // 2^25 times the scale
  int32_t top;

  SSG_INLINE Places(T largest, float scale) {
    const float magnitude = static_cast<float>(largest < 0 ? -largest : largest);
    origin = magnitude * scale >= 35.0f ? largest : T(0);
    factor = scale * 0x1p25f;
    top = place(largest);
  }
  SSG_INLINE int32_t place(T x) const { return truncated((x - origin) * static_cast<T>(factor)); }
  // Never less for a smaller logit.
  SSG_INLINE uint32_t distance(T x) const {
    const uint32_t far = static_cast<uint32_t>(top) - static_cast<uint32_t>(place(x));
    return far < kFar ? far : kFar;
  }
};

// m 2^(n - 25), cut to a whole number.
SSG_INLINE uint64_t weight_of(uint32_t m, uint32_t n) { return static_cast<uint64_t>(m) << 16 >> (41 - n); }

// A weight as its first 24 bits, m, and its octave, n, which is 41 for the largest. Word is uint32_t, or a vector of them.
template <class Word>
struct WeightOf {
  Word significand;  // 2^23 to 2^24
  Word octave;

  // Four times the distance.
  SSG_INLINE explicit WeightOf(Word distances) {
    // In units of 2^-26; the factor is log2(e) 2^31.
    const Word octaves = (41u << 26) - multiply_high(distances, 3098164009u);
    const Word fraction = octaves << 6;
    Word power = multiply_high_add(fraction, 232067u, 1338725u);
    power = multiply_high_add(fraction, power, 10388937u);
    power = multiply_high_add(fraction, power, 59576866u);
    power = multiply_high_add(fraction, power, 257944253u);
    power = multiply_high_add(fraction, power, 744260972u);
    significand = multiply_high_add(fraction, power, 1073741824u + 64) >> 7;
    octave = octaves >> 26;
  }
};

struct Weight : WeightOf<uint32_t> {
  using WeightOf::WeightOf;
  SSG_INLINE uint64_t value() const { return weight_of(significand, octave); }
};

// The nearest number from 0 to 1 as a share, which is 0 for 0 and NaN alone.
template <class T>
SSG_INLINE_ANYWHERE uint64_t share_of(T x) {
  if (!(x > 0)) return 0;
  const uint64_t share = x < 1 ? static_cast<uint64_t>(x * T(0x1p62)) : kWhole;
  return share > 0 ? share : 1;
}
// The share of the total, cut to a whole number; at most total - 1.
SSG_INLINE uint64_t part_of(uint64_t total, uint64_t share) {
  const uint64_t part = multiply_high(total << 1, share << 1);
  return part < total ? part : total - 1;
}

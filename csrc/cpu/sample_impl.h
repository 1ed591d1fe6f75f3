// Sampling, compiled once per instruction set like kernel_impl.h.
//
// A row's logits become integer keys of the same order. One radix selection finds two thresholds among them: the k-th
// largest key, where each key counts as 1, and the end of top-p, where each counts as its weight. Every instruction set
// gives the same bits, since weights are whole numbers, whose sums are exact in any order, and no multiply-add is
// fused.

#include <cstdint>
#include <cstring>

#include "sample.h"
#include "scratch.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {
namespace {

#include "../weight.h"

// How the logits of a dtype are stored.
template <class S>
struct Format;

template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr Bits infinity = 0x7f800000;
  static SSG_INLINE double value(Bits bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr Bits infinity = 0x7ff0000000000000;
  static SSG_INLINE double value(Bits bits) {
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

template <>
struct Format<BFloat16> {
  using Bits = uint16_t;
  static constexpr Bits infinity = 0x7f80;
  static SSG_INLINE double value(Bits bits) { return Format<float>::value(static_cast<uint32_t>(bits) << 16); }
};

template <>
struct Format<Float16> {
  using Bits = uint16_t;
  static constexpr Bits infinity = 0x7c00;
  // Made from a double's bits: a subnormal half would be a subnormal float, and some threads flush those to zero.
  static SSG_INLINE double value(Bits bits) {
    const uint64_t magnitude = bits & 0x7fff;
    const bool is_subnormal = magnitude < 0x400;
    double value = Format<double>::value((magnitude << 42) + ((is_subnormal ? uint64_t{1009} : uint64_t{1008}) << 52));
    value -= is_subnormal ? 0x1p-14 : 0.0;
    value = magnitude >= infinity ? Format<double>::value(Format<double>::infinity) : value;
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

template <class S>
class Row {
 public:
  using Key = typename Format<S>::Bits;

  explicit Row(const SampleCall& call) : call_(call) {
    const auto n = static_cast<size_t>(call.vocabulary);
    char* memory = static_cast<char*>(scratch().get(sizeof(int64_t) * (kBins + n + kBlock) + n * (sizeof(Key) + 8)));
    histogram_ = reinterpret_cast<int64_t*>(memory);
    weights_ = histogram_ + kBins;
    tokens_ = reinterpret_cast<int32_t*>(weights_ + n + kBlock);
    candidates_ = tokens_ + n;
    keys_ = reinterpret_cast<Key*>(candidates_ + n);
  }

  // The token, or -1 where the largest logit is not finite.
  int64_t draw(const S* logits, double uniform, double scale, int64_t top_k, double top_p) const {
    constexpr Key infinity = key_of(Format<S>::infinity);
    constexpr Key minus_infinity = key_of(static_cast<Key>(Format<S>::infinity | kSign<Key>));
    const int64_t vocabulary = call_.vocabulary;
    Key low = static_cast<Key>(~Key{0});
    Key high = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      Key bits;
      std::memcpy(&bits, logits + v, sizeof(bits));
      const Key key = key_of(bits);
      keys_[v] = key;
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    if (low < minus_infinity || high >= infinity || high == minus_infinity) return -1;

    if (top_k > 0 && top_k < vocabulary)
      low = select(vocabulary, low, high, vocabulary - top_k, [](int64_t) { return int64_t{1}; }).key;
    int64_t count = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      const Key key = keys_[v];
      keys_[count] = key;
      tokens_[count] = static_cast<int32_t>(v);
      count += key >= low;
    }

    const double largest = Format<S>::value(bits_of(high));
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) {
      weights_[i] = weight_of((Format<S>::value(bits_of(keys_[i])) - largest) * scale);
      total += weights_[i];
    }
    for (int64_t i = 0; i < kBlock; ++i) weights_[count + i] = 0;
    if (top_p > 0) {
      const int64_t limit = least(static_cast<int64_t>((1 - top_p) * static_cast<double>(total)), total - 1);
      const Found first = select(count, low, high, limit, [this](int64_t i) { return weights_[i]; });
      for (int64_t i = 0; i < count; ++i)
        weights_[i] = keys_[i] > first.key || (keys_[i] == first.key && i >= first.position) ? weights_[i] : 0;
      total -= first.before;
    }

    const double share = uniform > 0 ? (uniform < 1 ? uniform : 1.0) : 0.0;  // 0 for NaN
    const int64_t target = least(static_cast<int64_t>(share * static_cast<double>(total)), total - 1);
    return tokens_[reach(weights_, target, 0).position];
  }

 private:
  struct Found {
    Key key;
    int64_t position;
    int64_t before;
  };
  struct Reached {
    int64_t position;
    int64_t before;
  };

  static constexpr int kMostBits = 11;
  static constexpr int64_t kBins = int64_t{1} << kMostBits;
  static constexpr int64_t kBlock = 16;
  static constexpr int64_t kFew = 32;

  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
  static int width_of(uint64_t x) { return x == 0 ? 0 : 64 - __builtin_clzll(x); }

  // The first number with which the running sum, which begins at `before`, exceeds `limit`. There must be one. Reads no
  // further than the end of its block.
  static SSG_INLINE Reached reach(const int64_t* numbers, int64_t limit, int64_t before) {
    int64_t i = 0;
    for (;; i += kBlock) {
      int64_t sum = 0;
      for (int64_t j = 0; j < kBlock; ++j) sum += numbers[i + j];
      if (before + sum > limit) break;
      before += sum;
    }
    for (; before + numbers[i] <= limit; ++i) before += numbers[i];
    return {i, before};
  }

  // Adds up `weight` over keys_[0..count) in ascending order, equal keys in the order of their positions. Returns the
  // first key with which the sum exceeds `limit`. There must be one. All keys lie in [low, high].
  template <class Weight>
  Found select(int64_t count, Key low, Key high, int64_t limit, Weight weight) const {
    for (int64_t i = 0; i < count; ++i) candidates_[i] = static_cast<int32_t>(i);
    int64_t before = 0;
    while (count > kFew && low < high) {
      const int bits = static_cast<int>(least(kMostBits, width_of(static_cast<uint64_t>(count))));
      const int excess = width_of(static_cast<Key>(high - low)) - bits;
      const int shift = excess > 0 ? excess : 0;
      const int64_t bins = (static_cast<int64_t>(static_cast<Key>(high - low) >> shift) / kBlock + 1) * kBlock;
      for (int64_t i = 0; i < bins; ++i) histogram_[i] = 0;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t position = candidates_[i];
        histogram_[static_cast<Key>(keys_[position] - low) >> shift] += weight(position);
      }
      const Reached reached = reach(histogram_, limit, before);
      before = reached.before;
      low = static_cast<Key>(low + (static_cast<Key>(reached.position) << shift));
      const Key last = static_cast<Key>(low + ((Key{1} << shift) - 1));
      high = last < high && last >= low ? last : high;
      const Key range = static_cast<Key>(high - low);
      int64_t kept = 0;
      for (int64_t i = 0; i < count; ++i) {
        const int32_t position = candidates_[i];
        candidates_[kept] = position;
        kept += static_cast<Key>(keys_[position] - low) <= range;
      }
      count = kept;
    }
    for (int64_t i = 1; i < count; ++i) {
      const int32_t position = candidates_[i];
      int64_t to = i;
      for (; to > 0 && keys_[candidates_[to - 1]] > keys_[position]; --to) candidates_[to] = candidates_[to - 1];
      candidates_[to] = position;
    }
    int64_t i = 0;
    for (; before + weight(candidates_[i]) <= limit; ++i) before += weight(candidates_[i]);
    return {keys_[candidates_[i]], candidates_[i], before};
  }

  const SampleCall& call_;
  int64_t* histogram_;   // [kBins]
  int64_t* weights_;     // [vocabulary + kBlock], of the tokens that top-k keeps
  int32_t* tokens_;      // [vocabulary], the tokens that top-k keeps, in the order of the vocabulary
  int32_t* candidates_;  // [vocabulary], positions in keys_
  Key* keys_;            // [vocabulary], of all tokens, later of those that top-k keeps
};

template <class S>
int64_t sample_as(const SampleCall& call, int64_t begin, int64_t end) {
  const Row<S> row(call);
  int64_t first_empty = -1;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / call.tokens;
    const int64_t t = r % call.tokens;
    const int64_t at = b * call.uniform_batch_stride + t * call.uniform_token_stride;
    const double uniform = call.uniform_is_double ? static_cast<const double*>(call.uniform)[at]
                                                  : static_cast<const float*>(call.uniform)[at];
    const S* logits =
        static_cast<const S*>(call.logits.data) + b * call.logits.batch_stride + t * call.logits.token_stride;
    call.out[r] = row.draw(logits, uniform, call.scale[b], static_cast<int64_t>(call.top_k[b]), call.top_p[b]);
    if (call.out[r] < 0 && first_empty < 0) first_empty = r;
  }
  return first_empty;
}

}  // namespace

int64_t sample_rows(const SampleCall& call, int64_t begin, int64_t end) {
  switch (call.scalar) {
    case Scalar::float32: return sample_as<float>(call, begin, end);
    case Scalar::float64: return sample_as<double>(call, begin, end);
    case Scalar::bfloat16: return sample_as<BFloat16>(call, begin, end);
    case Scalar::float16: return sample_as<Float16>(call, begin, end);
    default: return -1;
  }
}

}  // namespace ssg::cpu::SSG_NAMESPACE

// Sampling, compiled once per instruction set like kernel_impl.h.
//
// A logit has a key, an integer of the same order, and a distance from the largest. A selection finds two tokens in
// descending order: the k-th, where each counts as 1, and the last that top-p keeps, where each counts as its weight. A
// bin of distances holds few candidates, and radix levels over keys thin out the rest. Weights are whole
// numbers, whose sums are exact in any order, so every instruction set gives the same bits.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sample.h"
#include "sample_format.h"
#include "sample_vector.h"
#include "scratch.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {
namespace {

// Cut towards zero; a number that is too large becomes one that is beyond every distance that counts.
template <class T>
SSG_INLINE int32_t truncated(T x) {
  constexpr T kMost = T(63 * 0x1p25f);
  x = x > -kMost ? x : -kMost;
  return static_cast<int32_t>(x < kMost ? x : kMost);
}

#define SSG_INLINE_ANYWHERE SSG_INLINE
#include "../weight.h"

template <class S>
class Row {
 public:
  using Key = typename Format<S>::Bits;

  explicit Row(const SampleCall& call) : call_(call) {
    const auto n = static_cast<size_t>(call.vocabulary);
    char* memory = static_cast<char*>(
        scratch().get(sizeof(uint64_t) * (kBins + n + kBlock) + kBlock * sizeof(uint32_t) + n * (sizeof(Key) + 12)));
    histogram_ = reinterpret_cast<uint64_t*>(memory);
    weights_ = histogram_ + kBins;
    distances_ = reinterpret_cast<uint32_t*>(weights_ + n + kBlock);
    tokens_ = reinterpret_cast<int32_t*>(distances_ + n + kBlock);
    candidates_ = tokens_ + n;
    keys_ = reinterpret_cast<Key*>(candidates_ + n);
  }

  // The token, or -1 where the largest logit is not finite.
  int64_t draw(const S* logits, uint64_t uniform, float scale, int64_t top_k, uint64_t top_p) const {
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

    const Places<typename Format<S>::Value> places(Format<S>::value(bits_of(high)), scale);
    for (int64_t v = 0; v < vocabulary; ++v) distances_[v] = places.distance(Format<S>::value(bits_of(keys_[v])));
    int64_t count = vocabulary;
    const bool is_filtered = top_k > 0 && top_k < vocabulary;
    if (is_filtered) {
      low = select(vocabulary, static_cast<uint64_t>(top_k), One{}).key;
      count = keep(vocabulary, tokens_, [this, low](int64_t v) { return keys_[v] >= low; });
      for (int64_t i = 0; i < count; ++i) {
        keys_[i] = keys_[tokens_[i]];
        distances_[i] = distances_[tokens_[i]];
      }
    }
    uint64_t total = weigh(count);
    if (top_p > 0) {
      const uint64_t stays = total - part_of(total, kWhole - top_p);
      const Found last = select(count, stays, [this](int64_t i) { return weights_[i]; });
      total = 0;
      for (int64_t i = 0; i < count; ++i) {
        weights_[i] = keys_[i] > last.key || (keys_[i] == last.key && i >= last.position) ? weights_[i] : 0;
        total += weights_[i];
      }
    }
    const int64_t drawn = reach(weights_, part_of(total, uniform) + 1).position;
    return is_filtered ? tokens_[drawn] : drawn;
  }

 private:
  struct Found {
    Key key;
    int64_t position;
  };
  // The weight of a token that counts as 1.
  struct One {
    uint64_t operator()(int64_t) const { return 1; }
  };
  struct Reached {
    int64_t position;
    uint64_t before;
  };

  static constexpr int kBinBits = 10;
  static constexpr int64_t kBins = int64_t{1} << kBinBits;
  static constexpr int kBinShift = 30 - kBinBits;  // of a distance
  static constexpr int64_t kBlock = 16;
  static constexpr int64_t kFew = 32;

  // Sets the weights of `count` tokens and returns their sum.
  uint64_t weigh(int64_t count) const {
    constexpr int64_t lanes = sizeof(Words) / sizeof(uint32_t);
    for (int64_t i = 0; i < lanes; ++i) distances_[count + i] = kFar;
    for (int64_t i = 0; i < count; i += lanes) {
      Words distances;
      std::memcpy(&distances, distances_ + i, sizeof(distances));
      const WeightOf<Words> weight(distances << 2);
      uint32_t significands[lanes];
      uint32_t octaves[lanes];
      std::memcpy(significands, &weight.significand, sizeof(significands));
      std::memcpy(octaves, &weight.octave, sizeof(octaves));
      for (int64_t j = 0; j < lanes; ++j) weights_[i + j] = weight_of(significands[j], octaves[j]);
    }
    for (int64_t i = 0; i < kBlock; ++i) weights_[count + i] = 0;
    uint64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += weights_[i];
    return total;
  }

  static int width_of(uint64_t x) { return x == 0 ? 0 : 64 - __builtin_clzll(x); }

  // The first number with which the running sum reaches `target`. There must be one. Reads no further than the end of
  // its block.
  static SSG_INLINE Reached reach(const uint64_t* numbers, uint64_t target) {
    uint64_t before = 0;
    int64_t i = 0;
    for (;; i += kBlock) {
      uint64_t sum = 0;
      for (int64_t j = 0; j < kBlock; ++j) sum += numbers[i + j];
      if (before + sum >= target) break;
      before += sum;
    }
    for (; before + numbers[i] < target; ++i) before += numbers[i];
    return {i, before};
  }

  // The first token in descending order, of equal ones the last first, with which the sum of weights reaches `target`.
  // There must be one.
  template <class Weights>
  Found select(int64_t count, uint64_t target, Weights weight) const {
    if (count <= kFew) {
      for (int64_t i = 0; i < count; ++i) candidates_[i] = static_cast<int32_t>(i);
    } else {
      const auto bin = [this](int64_t i) { return distances_[i] >> kBinShift; };
      int64_t full;
      if constexpr (std::is_same_v<Weights, One>)
        full = find_bin_by_counting(count, target);
      else
        full = find_bin(count, target, [=](int64_t i, uint64_t* bins) { bins[bin(i)] += weight(i); });
      count = keep(count, candidates_, [=](int64_t i) { return bin(i) == full; });
    }
    while (count > kFew) {
      Key low = static_cast<Key>(~Key{0});
      Key high = 0;
      for (int64_t i = 0; i < count; ++i) {
        const Key key = keys_[candidates_[i]];
        low = key < low ? key : low;
        high = key > high ? key : high;
      }
      if (low == high) {
        int64_t i = count - 1;
        for (; weight(candidates_[i]) < target; --i) target -= weight(candidates_[i]);
        return {low, candidates_[i]};
      }
      const int excess = width_of(static_cast<Key>(high - low)) - kBinBits;
      const int shift = excess > 0 ? excess : 0;
      const auto bin = [this, high, shift](int64_t i) {
        return static_cast<Key>(high - keys_[candidates_[i]]) >> shift;
      };
      const int64_t full =
          find_bin(count, target, [=](int64_t i, uint64_t* bins) { bins[bin(i)] += weight(candidates_[i]); });
      int64_t kept = 0;
      for (int64_t i = 0; i < count; ++i) {
        const bool stays = static_cast<int64_t>(bin(i)) == full;
        candidates_[kept] = candidates_[i];
        kept += stays;
      }
      count = kept;
    }
    for (int64_t i = 1; i < count; ++i) {
      const int32_t position = candidates_[i];
      int64_t to = i;
      for (; to > 0 && keys_[candidates_[to - 1]] <= keys_[position]; --to) candidates_[to] = candidates_[to - 1];
      candidates_[to] = position;
    }
    int64_t i = 0;
    for (; weight(candidates_[i]) < target; ++i) target -= weight(candidates_[i]);
    return {keys_[candidates_[i]], candidates_[i]};
  }

  // The bin in which the sum reaches the target, from which what the bins before hold is taken.
  template <class Add>
  int64_t find_bin(int64_t count, uint64_t& target, Add add) const {
    for (int64_t i = 0; i < kBins; ++i) histogram_[i] = 0;
    for (int64_t i = 0; i < count; ++i) add(i, histogram_);
    const Reached reached = reach(histogram_, target);
    target -= reached.before;
    return reached.position;
  }

  // The bin of the distance at which as many tokens as the target are reached. Vectors count faster than a histogram
  // fills.
  int64_t find_bin_by_counting(int64_t count, uint64_t& target) const {
    int64_t low = 0;
    uint32_t before = 0;
    for (int64_t high = kBins; low + 1 < high;) {
      const int64_t middle = (low + high) / 2;
      const auto bound = static_cast<uint32_t>(middle << kBinShift);
      uint32_t nearer = 0;
      for (int64_t i = 0; i < count; ++i) nearer += distances_[i] < bound;
      if (nearer >= target) {
        high = middle;
      } else {
        low = middle;
        before = nearer;
      }
    }
    target -= before;
    return low;
  }

  // Writes the positions below `count` that `stays` accepts, in ascending order, and returns their number. Most
  // positions go, so it looks at blocks of them before it looks at each.
  template <class Stays>
  static SSG_INLINE int64_t keep(int64_t count, int32_t* positions, Stays stays) {
    constexpr int64_t kWord = 64;
    int64_t kept = 0;
    int64_t first = 0;
    for (; first + kWord <= count; first += kWord) {
      uint8_t flags[kWord];
      for (int64_t j = 0; j < kWord; ++j) flags[j] = stays(first + j);
      uint64_t word = 0;
      for (int64_t j = 0; j < kWord; j += 8) {
        uint64_t eight;  // flags of 0 and 1, which the product gathers in its highest byte
        std::memcpy(&eight, flags + j, sizeof(eight));
        word |= eight * 0x0102040810204080 >> 56 << j;
      }
      kept = append_positions(word, first, positions, kept);
    }
    for (; first < count; ++first)
      if (stays(first)) positions[kept++] = static_cast<int32_t>(first);
    return kept;
  }

  const SampleCall& call_;
  uint64_t* histogram_;  // [kBins]
  // Of all tokens, later of those that top-k keeps, in the order of the vocabulary:
  uint64_t* weights_;    // [vocabulary + kBlock]
  uint32_t* distances_;  // [vocabulary + kBlock]
  int32_t* tokens_;      // [vocabulary]
  Key* keys_;            // [vocabulary]
  int32_t* candidates_;  // [vocabulary], positions in these
};

template <class S>
int64_t sample_as(const SampleCall& call, int64_t begin, int64_t end) {
  const Row<S> row(call);
  int64_t first_empty = -1;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / call.tokens;
    const int64_t t = r % call.tokens;
    const int64_t at = b * call.uniform_batch_stride + t * call.uniform_token_stride;
    const uint64_t uniform = call.uniform_is_double ? share_of(static_cast<const double*>(call.uniform)[at])
                                                    : share_of(static_cast<const float*>(call.uniform)[at]);
    const S* logits =
        static_cast<const S*>(call.logits.data) + b * call.logits.batch_stride + t * call.logits.token_stride;
    call.out[r] = row.draw(logits, uniform, scale_of(call.scale[b]), static_cast<int64_t>(call.top_k[b]),
                           share_of(call.top_p[b]));
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

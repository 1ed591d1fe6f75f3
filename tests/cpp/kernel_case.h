// One call of the CPU kernel, and its random inputs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "buffer.h"
#include "names.h"
#include "step.h"

namespace ssg::test {

struct Case {
  StepKey key;
  Scalar scalar = Scalar::float32;
  int64_t batch = 1;
  int64_t vocabulary = 1;
  int64_t sources = 1;
  bool prior_alone = false;
  bool in_place = false;
  Layout out_layout = Layout::contiguous;
  Layout layouts[2] = {};       // of each source's logits of this scale
  Layout prev_layouts[2] = {};  // and of the previous one
  int64_t offset = 0;           // of every buffer's data from a multiple of 64 bytes, in elements
  int64_t threads = 1;
  bool one_by_one = false;
  bool special = false;  // some infinities and NaN

  Grid out() const { return key.transposed ? key.prev_size : key.size; }
  Grid in() const { return key.transposed ? key.size : key.prev_size; }

  std::string describe() const {
    char text[400];
    std::snprintf(
        text, sizeof(text),
        "%s, %dx%d -> %dx%d, prior %s, interpolation %s, rescale %d, transposed %d, B %d, V %d, sources %d, "
        "prior alone %d, in place %d, layouts %d %d %d %d %d, offset %d, threads %d, one by one %d, special %d",
        number(scalar).name, static_cast<int>(key.prev_size.h), static_cast<int>(key.prev_size.w),
        static_cast<int>(key.size.h), static_cast<int>(key.size.w), name_of(ssg::kPriors, key.prior),
        name_of(ssg::kInterpolations, key.interpolation), key.rescale, key.transposed, static_cast<int>(batch),
        static_cast<int>(vocabulary), static_cast<int>(sources), prior_alone, in_place, static_cast<int>(out_layout),
        static_cast<int>(layouts[0]), static_cast<int>(layouts[1]), static_cast<int>(prev_layouts[0]),
        static_cast<int>(prev_layouts[1]), static_cast<int>(offset), static_cast<int>(threads), one_by_one, special);
    return text;
  }
};

inline const ssg::Matrix& dense(const StepKey& key) {
  static std::map<StepKey, ssg::Matrix> cache;
  ssg::Matrix& m = cache[key];
  if (m.rows == 0) m = dense_operator(terms_of(key));
  return m;
}

// Random numbers whose values do not depend on the standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool coin() { return below(2) == 1; }
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  // The sum of four uniforms, of variance one: near enough to a normal distribution, and quick.
  double normal() { return (uniform() + uniform() + uniform() + uniform() - 2.0) * std::sqrt(3.0); }

 private:
  std::mt19937_64 engine_;
};

struct Inputs {
  std::vector<Buffer> current;
  std::vector<Buffer> previous;
  std::unique_ptr<double[]> weights;  // exactly as many as are read
};

inline Inputs make_inputs(const Case& c, Random& random) {
  Inputs inputs;
  for (int64_t s = 0; s < c.sources; ++s) {
    if (!c.prior_alone)
      inputs.current.emplace_back(c.scalar, c.batch, c.out().tokens(), c.vocabulary,
                                  c.in_place && s == 0 ? c.out_layout : c.layouts[s], c.offset);
    inputs.previous.emplace_back(c.scalar, c.batch, c.in().tokens(), c.vocabulary, c.prev_layouts[s], c.offset);
  }
  for (const auto* buffers : {&inputs.current, &inputs.previous})
    for (const Buffer& buffer : *buffers)
      buffer.each(
          [&](int64_t b, int64_t t, int64_t v) { buffer.set(b, t, v, rounded(4.0 * random.normal(), c.scalar)); });
  const int64_t count = 2 * c.sources * c.batch;
  inputs.weights.reset(new double[static_cast<size_t>(count)]);
  for (int64_t i = 0; i < count; ++i)
    inputs.weights[static_cast<size_t>(i)] = static_cast<float>(6.0 * random.uniform() - 3.0);

  if (c.special && c.batch > 0) {
    for (int64_t i = 0; i < 3 && !c.prior_alone; ++i) {
      const int64_t b = random.below(c.batch);
      const int64_t t = random.below(c.out().tokens());
      const int64_t v = random.below(c.vocabulary);
      for (const Buffer& buffer : inputs.current) buffer.set(b, t, v, -kInfinity);
    }
    inputs.previous[0].set(random.below(c.batch), random.below(c.in().tokens()), random.below(c.vocabulary),
                           random.coin() ? -kInfinity : kNaN);
    if (random.coin()) {
      // A NaN whose payload no half type can hold.
      const uint64_t bits = random.coin() ? 0x7fffffffffffffff : 0xfff0000000000001;
      std::memcpy(&inputs.weights[static_cast<size_t>(random.below(count))], &bits, sizeof(bits));
    }
  }
  return inputs;
}

}  // namespace ssg::test

// Runs the CPU kernel on odd shapes under the address and undefined-behaviour sanitizers. Every buffer has exactly the
// size it needs, and every value is compared with the dense operator in double.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/kernel.h"
#include "names.h"

namespace {

using ssg::Grid;
using ssg::Scalar;
using ssg::StepKey;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kAnything = 1e300;  // expected where an infinity or a NaN may or may not have spread to
constexpr Scalar kScalars[] = {Scalar::float32, Scalar::float64, Scalar::bfloat16, Scalar::float16};

constexpr const char* kCapabilities[] = {"avx512", "avx2", "baseline"};
constexpr int kCapabilityCount = 3;

// Memory that the processes, one for each instruction set, share with the one that started them.
struct Shared {
  std::atomic<int> passed;
  std::atomic<int> failed;
  char running[kCapabilityCount][400];  // the case that a process ended in
};
Shared* shared = nullptr;
char* running = nullptr;

thread_local int64_t allocations = 0;

// ---- numbers of each dtype ------------------------------------------------------------------------------------------

struct Number {
  const char* name;
  int64_t bytes;
  int mantissa_bits;
  int min_exponent;
};

const Number& number(Scalar scalar) {
  static const Number numbers[] = {
      {"float32", 4, 23, -126}, {"bfloat16", 2, 7, -126}, {"float16", 2, 10, -14}, {"float64", 8, 52, -1022}};
  return numbers[static_cast<int>(scalar)];
}

double ulp(double x, Scalar scalar) {
  const Number& n = number(scalar);
  const int exponent = x == 0.0 ? n.min_exponent : std::max(std::ilogb(x), n.min_exponent);
  return std::ldexp(1.0, exponent - n.mantissa_bits);
}

// The nearest number of the dtype, ties to even, rounded straight from double.
double rounded(double x, Scalar scalar) {
  if (scalar == Scalar::float64 || !std::isfinite(x)) return x;
  const double unit = ulp(x, scalar);
  return std::nearbyint(x / unit) * unit;
}

double decode_half(uint16_t half, const Number& n) {
  const int exponent_bits = 15 - n.mantissa_bits;
  const int mantissa = half & ((1 << n.mantissa_bits) - 1);
  const int exponent = (half >> n.mantissa_bits) & ((1 << exponent_bits) - 1);
  double value;
  if (exponent == (1 << exponent_bits) - 1)
    value = mantissa == 0 ? kInfinity : kNaN;
  else
    value = std::ldexp(mantissa + (exponent > 0 ? 1 << n.mantissa_bits : 0),
                       std::max(exponent, 1) - 1 + n.min_exponent - n.mantissa_bits);
  return half >> 15 != 0 ? -value : value;
}

std::vector<double> every_half(Scalar scalar) {
  std::vector<double> values;
  for (int half = 0; half < 0x10000; ++half) values.push_back(decode_half(static_cast<uint16_t>(half), number(scalar)));
  return values;
}

double decode(const char* from, Scalar scalar) {
  static const std::vector<double> bfloat16 = every_half(Scalar::bfloat16);
  static const std::vector<double> float16 = every_half(Scalar::float16);
  uint16_t half;
  float single;
  double value;
  switch (scalar) {
    case Scalar::float32: std::memcpy(&single, from, sizeof(single)); return single;
    case Scalar::float64: std::memcpy(&value, from, sizeof(value)); return value;
    case Scalar::bfloat16: std::memcpy(&half, from, sizeof(half)); return bfloat16[half];
    case Scalar::float16: std::memcpy(&half, from, sizeof(half)); return float16[half];
    default: break;
  }
  std::abort();
}

// `value` must be a number of the dtype already.
void encode(char* to, double value, Scalar scalar) {
  const float single = static_cast<float>(value);
  switch (scalar) {
    case Scalar::float32: std::memcpy(to, &single, sizeof(single)); return;
    case Scalar::float64: std::memcpy(to, &value, sizeof(value)); return;
    default: break;
  }
  const Number& n = number(scalar);
  const int exponent_bits = 15 - n.mantissa_bits;
  int bits;
  if (std::isnan(value)) {
    bits = 0x7fff;
  } else if (std::isinf(value)) {
    bits = ((1 << exponent_bits) - 1) << n.mantissa_bits;
  } else {
    const int exponent = value == 0.0 ? n.min_exponent : std::max(std::ilogb(value), n.min_exponent);
    // The implicit bit, where there is one, counts the exponent up from that of the subnormal numbers.
    bits = static_cast<int>(std::ldexp(std::abs(value), n.mantissa_bits - exponent)) +
           ((exponent - n.min_exponent) << n.mantissa_bits);
  }
  const uint16_t half = static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
  std::memcpy(to, &half, sizeof(half));
}

// ---- buffers --------------------------------------------------------------------------------------------------------

enum class Layout { contiguous, padded, tokens_first, one_sample, one_token };

// (batch, tokens, vocabulary) logits in an allocation that ends with their last element. What lies between them is NaN.
class Buffer {
 public:
  Buffer(Scalar scalar, int64_t batch, int64_t tokens, int64_t vocabulary, Layout layout, int64_t offset)
      : scalar_(scalar), batch_(batch), tokens_(tokens), vocabulary_(vocabulary) {
    const int64_t gap = layout == Layout::contiguous ? 0 : 3;
    token_stride_ = vocabulary + gap;
    batch_stride_ = (tokens + gap) * token_stride_;
    if (layout == Layout::tokens_first) {
      batch_stride_ = vocabulary + gap;
      token_stride_ = batch * batch_stride_;
    }
    if (layout == Layout::one_sample) batch_stride_ = 0;
    if (layout == Layout::one_token) token_stride_ = 0;
    const int64_t elements =
        batch == 0 ? 0 : offset + (batch - 1) * batch_stride_ + (tokens - 1) * token_stride_ + vocabulary;
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(elements * number(scalar).bytes)) != 0) std::abort();
    memory_.reset(static_cast<char*>(memory));
    bytes_ = static_cast<size_t>(elements * number(scalar).bytes);
    std::memset(memory, 0xff, bytes_);
    data_ = memory_.get() + offset * number(scalar).bytes;
  }

  char* at(int64_t b, int64_t t, int64_t v) const {
    return data_ + (b * batch_stride_ + t * token_stride_ + v) * number(scalar_).bytes;
  }
  double get(int64_t b, int64_t t, int64_t v) const { return decode(at(b, t, v), scalar_); }
  void set(int64_t b, int64_t t, int64_t v, double value) const { encode(at(b, t, v), value, scalar_); }

  template <class F>
  void each(const F& f) const {
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < tokens_; ++t)
        for (int64_t v = 0; v < vocabulary_; ++v) f(b, t, v);
  }

  ssg::Logits view() const { return {data_, batch_stride_, token_stride_}; }
  std::string bytes() const { return {memory_.get(), bytes_}; }
  void restore(const std::string& bytes) const {
    if (bytes_ > 0) std::memcpy(memory_.get(), bytes.data(), bytes_);
  }

  // All bytes, with those of the elements set to zero.
  std::string rest() const {
    std::string rest = bytes();
    const size_t row = static_cast<size_t>(vocabulary_ * number(scalar_).bytes);
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < tokens_; ++t)
        std::memset(&rest[static_cast<size_t>(at(b, t, 0) - memory_.get())], 0, row);
    return rest;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  Scalar scalar_;
  int64_t batch_;
  int64_t tokens_;
  int64_t vocabulary_;
  int64_t batch_stride_;
  int64_t token_stride_;
  size_t bytes_;
  std::unique_ptr<char, Free> memory_;
  char* data_;
};

// ---- threads --------------------------------------------------------------------------------------------------------

int64_t workers = 1;
bool one_by_one = false;  // each task goes to the first free thread; else each thread gets a run of tasks
int64_t last_tasks = 0;

void parallel(int64_t tasks, int64_t, ssg::cpu::Body body, const void* context) {
  last_tasks = tasks;
  if (workers == 1) return body(context, 0, tasks);
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int64_t worker = 0; worker < workers; ++worker)
    threads.emplace_back([&, worker] {
      if (one_by_one) {
        for (int64_t task; (task = next++) < tasks;) body(context, task, task + 1);
      } else if (worker * tasks / workers < (worker + 1) * tasks / workers) {
        body(context, worker * tasks / workers, (worker + 1) * tasks / workers);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// ---- one case -------------------------------------------------------------------------------------------------------

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

const ssg::Matrix& dense(const StepKey& key) {
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

Inputs make_inputs(const Case& c, Random& random) {
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

// The expected result, (batch, tokens, vocabulary) in double.
struct Expected {
  std::vector<double> values;  // NaN where the result must be an infinity or a NaN, kAnything where it may be
  double largest_term = 0.0;   // the largest of the terms of their sums
};

Expected expect(const Case& c, const Inputs& inputs) {
  const int64_t vocabulary = c.vocabulary;
  const int64_t out_tokens = c.out().tokens();
  const int64_t in_tokens = c.in().tokens();
  const ssg::Matrix& matrix = dense(c.key);
  Expected expected;
  expected.values.resize(static_cast<size_t>(c.batch * out_tokens * vocabulary));
  const auto weighted = [&](double weight, double value) {
    const double term = weight * value;
    if (std::isfinite(term)) expected.largest_term = std::max(expected.largest_term, std::abs(term));
    return term;
  };
  for (int64_t b = 0; b < c.batch; ++b) {
    const double* weight = inputs.weights.get() + b * 2 * c.sources;
    std::vector<double> merged(static_cast<size_t>(in_tokens * vocabulary));
    std::vector<char> is_tainted(static_cast<size_t>(vocabulary));  // columns that an infinity or a NaN goes into
    for (int64_t t = 0; t < in_tokens; ++t)
      for (int64_t v = 0; v < vocabulary; ++v) {
        double& sum = merged[static_cast<size_t>(t * vocabulary + v)];
        for (int64_t s = 0; s < c.sources; ++s)
          sum += weighted(weight[c.sources + s], inputs.previous[static_cast<size_t>(s)].get(b, t, v));
        if (!std::isfinite(sum)) is_tainted[static_cast<size_t>(v)] = 1;
      }
    for (int64_t t = 0; t < out_tokens; ++t) {
      double* row = expected.values.data() + (b * out_tokens + t) * vocabulary;
      for (int64_t v = 0; v < vocabulary; ++v) {
        if (is_tainted[static_cast<size_t>(v)] != 0) row[v] = kAnything;
        for (size_t s = 0; s < inputs.current.size(); ++s)
          row[v] += weighted(weight[s], inputs.current[s].get(b, t, v));
      }
      for (int64_t i = 0; i < in_tokens; ++i) {
        const double coefficient = matrix(t, i);
        const double* x = merged.data() + i * vocabulary;
        for (int64_t v = 0; v < vocabulary; ++v)
          if (std::isfinite(x[v]))
            row[v] += coefficient * x[v];
          else if (std::abs(coefficient) > 1e-3)
            row[v] = kNaN;
      }
      for (int64_t v = 0; v < vocabulary; ++v) {
        if (is_tainted[static_cast<size_t>(v)] != 0 && std::isinf(row[v])) row[v] = kNaN;
        if (!inputs.current.empty() && inputs.current[0].get(b, t, v) == -kInfinity) row[v] = -kInfinity;
      }
    }
  }
  return expected;
}

struct Halves {
  int64_t equal = 0;
  int64_t all = 0;
};
std::map<Scalar, Halves> halves;

std::string compare(const Case& c, const Buffer& out, const Expected& expected) {
  double largest = expected.values.size() < 16 ? expected.largest_term : 0.0;
  for (double value : expected.values)
    if (std::isfinite(value) && value != kAnything) largest = std::max(largest, std::abs(value));
  const double bound = (c.scalar == Scalar::float64 ? 1e-12 : 2e-6) * largest;
  const bool is_half = number(c.scalar).bytes == 2;
  Halves& half = halves[c.scalar];
  std::string error;
  size_t next = 0;
  out.each([&](int64_t b, int64_t t, int64_t v) {
    const double value = out.get(b, t, v);
    const double wanted = expected.values[next++];
    if (wanted == kAnything) return;
    bool is_right;
    if (std::isnan(wanted)) {
      is_right = !std::isfinite(value);
    } else if (std::isinf(wanted)) {
      is_right = value == wanted;
    } else {
      is_right = std::abs(value - wanted) <= bound + (is_half ? 0.5 * ulp(wanted, c.scalar) : 0.0);
      ++half.all;
      half.equal += value == rounded(wanted, c.scalar);
    }
    if (is_right || !error.empty()) return;
    char text[200];
    std::snprintf(text, sizeof(text), "(%d, %d, %d) is %.9g, expected %.9g within %.3g", static_cast<int>(b),
                  static_cast<int>(t), static_cast<int>(v), value, wanted, bound);
    error = text;
  });
  return error;
}

int64_t row_grouped_cases = 0;

std::string check(const Case& c, Random& random) {
  const Inputs inputs = make_inputs(c, random);
  const Expected expected = expect(c, inputs);
  const Buffer fresh(c.scalar, c.in_place ? 0 : c.batch, c.out().tokens(), c.vocabulary, c.out_layout, c.offset);
  const Buffer& out = c.in_place ? inputs.current[0] : fresh;

  ssg::cpu::GuidedCall call;
  call.scalar = c.scalar;
  call.batch = c.batch;
  call.vocabulary = c.vocabulary;
  call.sources = c.sources;
  std::vector<std::pair<const Buffer*, std::string>> untouched;
  for (size_t s = 0; s < inputs.previous.size(); ++s) {
    call.previous[s] = inputs.previous[s].view();
    untouched.emplace_back(&inputs.previous[s], inputs.previous[s].bytes());
  }
  for (size_t s = 0; s < inputs.current.size(); ++s) {
    call.current[s] = inputs.current[s].view();
    if (&inputs.current[s] != &out) untouched.emplace_back(&inputs.current[s], inputs.current[s].bytes());
  }
  call.out = out.view();
  call.weights = inputs.weights.get();
  const std::string before = out.bytes();
  const std::string rest = out.rest();
  const auto run = [&](int64_t threads) {
    workers = threads;
    one_by_one = c.one_by_one;
    ssg::cpu::run(c.key, call, threads, parallel);
  };
  run(c.threads);
  const ssg::cpu::Kernel& kernel = ssg::cpu::kernel();
  const int64_t strip = c.scalar == Scalar::float64 ? kernel.strip_float64 : kernel.strip_float32;
  if (c.batch > 0 && last_tasks > c.batch * ((c.vocabulary + strip - 1) / strip)) ++row_grouped_cases;

  if (out.rest() != rest) return "wrote between the elements of the output";
  for (const auto& [buffer, bytes] : untouched)
    if (buffer->bytes() != bytes) return "wrote to an input";
  if (c.threads > 1) {
    const std::string result = out.bytes();
    out.restore(before);
    const int64_t allocated = allocations;
    run(1);
    if (allocations != allocated) return "a call whose plan is known allocates";
    if (out.bytes() != result) return "one thread gives other bits";
  }
  return compare(c, out, expected);
}

void report(const std::string& what, const std::string& error) {
  if (error.empty()) {
    ++shared->passed;
    return;
  }
  if (++shared->failed <= 20) std::printf("FAILED %s: %s: %s\n", ssg::cpu::kernel().name, what.c_str(), error.c_str());
}

void test(const Case& c, Random& random) {
  std::snprintf(running, sizeof(Shared::running[0]), "%s", c.describe().c_str());
  report(c.describe(), check(c, random));
}

// ---- which cases ----------------------------------------------------------------------------------------------------

struct Sizes {
  Grid prev;
  Grid size;
};

const std::vector<Sizes> kSizes = {
    {{1, 1}, {1, 1}}, {{1, 1}, {2, 2}},  {{1, 1}, {1, 5}},  {{1, 1}, {7, 1}},   {{2, 2}, {3, 2}},   {{2, 2}, {2, 5}},
    {{2, 2}, {3, 3}}, {{3, 2}, {6, 4}},  {{1, 4}, {3, 9}},  {{5, 1}, {11, 2}},  {{4, 4}, {4, 4}},   {{5, 3}, {5, 3}},
    {{4, 5}, {4, 7}}, {{6, 4}, {9, 4}},  {{5, 5}, {6, 6}},  {{4, 4}, {8, 8}},   {{7, 7}, {9, 9}},   {{6, 8}, {9, 12}},
    {{8, 6}, {9, 7}}, {{3, 9}, {5, 15}}, {{9, 5}, {13, 8}}, {{8, 8}, {12, 12}}, {{10, 9}, {11, 13}}};

template <class Enum>
Enum any_of(ssg::Names<Enum> names, Random& random) {
  return names.first[random.below(static_cast<int64_t>(names.count))].value;
}

// A case that is random except for the sources of the logits.
Case random_case(Random& random) {
  Case c;
  const Sizes& sizes = kSizes[static_cast<size_t>(random.below(static_cast<int64_t>(kSizes.size())))];
  c.key.prev_size = sizes.prev;
  c.key.size = sizes.size;
  c.key.prior = any_of(ssg::kPriors, random);
  c.key.interpolation = any_of(ssg::kInterpolations, random);
  c.key.rescale = random.coin();
  c.key.transposed = random.coin();
  c.scalar = kScalars[random.below(4)];
  c.vocabulary = 1 + random.below(70);
  c.batch = 1 + random.below(3);
  c.out_layout = static_cast<Layout>(random.below(3));
  for (Layout* layouts : {c.layouts, c.prev_layouts})
    for (int s = 0; s < 2; ++s) layouts[s] = static_cast<Layout>(random.below(5));
  c.offset = std::vector<int64_t>{0, 1, 3, 8}[static_cast<size_t>(random.below(4))];
  c.threads = std::vector<int64_t>{1, 1, 2, 5}[static_cast<size_t>(random.below(4))];
  c.one_by_one = random.coin();
  c.special = random.below(4) == 0;
  return c;
}

// mode 0: the prior alone; 1: one source; 2: a conditional and an unconditional one.
void set_mode(Case& c, int mode, Random& random) {
  c.prior_alone = mode == 0;
  c.sources = mode == 2 ? 2 : 1;
  c.in_place = mode != 0 && random.coin();
}

void every_vocabulary(Random& random) {
  std::vector<int64_t> vocabularies = {96, 127, 128, 129, 160, 255, 256, 320, 513};
  for (int64_t v = 1; v <= 67; ++v) vocabularies.push_back(v);
  for (int64_t vocabulary : vocabularies)
    for (Scalar scalar : kScalars)
      for (int mode = 0; mode < 3; ++mode) {
        Case c = random_case(random);
        c.vocabulary = vocabulary;
        c.scalar = scalar;
        set_mode(c, mode, random);
        test(c, random);
      }
}

void every_size(Random& random) {
  for (const Sizes& sizes : kSizes)
    for (const auto& [prior_name, prior] : ssg::kPriors)
      for (const auto& [interpolation_name, interpolation] : ssg::kInterpolations)
        for (bool transposed : {false, true}) {
          Case c = random_case(random);
          c.key.prev_size = sizes.prev;
          c.key.size = sizes.size;
          c.key.prior = prior;
          c.key.interpolation = interpolation;
          c.key.transposed = transposed;
          set_mode(c, static_cast<int>(random.below(3)), random);
          test(c, random);
        }
}

void samplers_steps(Random& random) {
  for (const Sizes& sizes : std::vector<Sizes>{{{13, 13}, {16, 16}}, {{18, 13}, {24, 18}}, {{16, 8}, {22, 11}}})
    for (Scalar scalar : kScalars)
      for (int64_t threads : {1, 3}) {
        Case c = random_case(random);
        c.key = StepKey{};
        c.key.prev_size = sizes.prev;
        c.key.size = sizes.size;
        c.key.transposed = threads == 3 && scalar == Scalar::float32;
        c.scalar = scalar;
        c.batch = 1;
        c.vocabulary = threads == 1 ? 70 : 9;
        c.threads = threads;
        set_mode(c, 1 + static_cast<int>(random.below(2)), random);
        test(c, random);
      }
}

// Fewer columns than threads, and so much work that the rows of a strip are shared out.
void shared_rows(Random& random) {
  Case c;
  c.key.prev_size = {48, 48};
  c.key.size = {64, 64};
  c.vocabulary = 8;
  c.threads = 3;
  test(c, random);
}

void empty_batch(Random& random) {
  for (Scalar scalar : kScalars)
    for (int mode = 0; mode < 3; ++mode) {
      Case c = random_case(random);
      c.batch = 0;
      c.scalar = scalar;
      c.special = false;
      set_mode(c, mode, random);
      test(c, random);
    }
}

// Long rows: several strips to a task, and outputs of megabytes, which are written past the cache where they are
// aligned.
void large_outputs(Random& random) {
  for (Scalar scalar : kScalars) {
    Case c;
    c.key.prev_size = {2, 1};
    c.key.size = {3, 2};
    c.scalar = scalar;
    c.vocabulary = (int64_t{9} << 20) / 6 / number(scalar).bytes / 64 * 64;
    if (scalar == Scalar::bfloat16) c.key.prior = ssg::Prior::spatial;
    if (scalar == Scalar::float32 || scalar == Scalar::float16) {
      // A row's stride stays a multiple of 64 bytes, its end lies inside a vector.
      c.vocabulary -= 3;
      c.out_layout = c.layouts[0] = Layout::padded;
      c.sources = 2;
      c.threads = 3;
    }
    test(c, random);
  }
}

void invalid_keys() {
  ssg::cpu::PlanKey bigger;
  bigger.step.size = {2, 2};
  bigger.step.prev_size = {3, 1};
  ssg::cpu::PlanKey empty;
  empty.step.size = {2, 2};
  ssg::cpu::PlanKey no_registers;
  no_registers.step.size = no_registers.step.prev_size = {2, 2};
  no_registers.accumulators = 0;
  for (const ssg::cpu::PlanKey& key : {bigger, empty, no_registers}) {
    std::string error = "a plan was made";
    try {
      ssg::cpu::make_plan<float>(key);
    } catch (const std::invalid_argument&) {
      error.clear();
    }
    report("a key without meaning", error);
  }
}

void shares_of_halves() {
  for (const auto& [scalar, half] : halves)
    if (number(scalar).bytes == 2)
      report(std::string("rounded results of ") + number(scalar).name,
             static_cast<double>(half.equal) >= 0.99 * static_cast<double>(half.all)
                 ? ""
                 : std::to_string(half.equal) + " of " + std::to_string(half.all) + " equal the rounded double result");
}

// Runs in a process of its own, since a process chooses its kernel once.
int run_all(const char* capability) {
  setenv("SSG_KERNELS_CPU_CAPABILITY", capability, 1);
  if (std::strcmp(ssg::cpu::kernel().name, capability) != 0) {
    std::printf("%s: not on this machine, or not in this build\n", capability);
    return 0;
  }
  Random random(20260730);
  invalid_keys();
  empty_batch(random);
  every_vocabulary(random);
  every_size(random);
  samplers_steps(random);
  shared_rows(random);
  large_outputs(random);
  shares_of_halves();
  report("row groups", row_grouped_cases > 0 ? "" : "no case split the rows of a strip");
  std::printf("%s: done\n", capability);
  return 0;
}

}  // namespace

void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
void* operator new(size_t bytes) {
  if (void* data = operator new(bytes, std::nothrow)) return data;
  throw std::bad_alloc();
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete(void* data, const std::nothrow_t&) noexcept { std::free(data); }

int main() {
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  shared = new (memory) Shared{};
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  pid_t children[kCapabilityCount];
  for (int i = 0; i < kCapabilityCount; ++i) {
    running = shared->running[i];
    children[i] = fork();
    if (children[i] < 0) return 1;
    if (children[i] == 0) std::exit(run_all(kCapabilities[i]));
  }
  bool crashed = false;
  for (int i = 0; i < kCapabilityCount; ++i) {
    int status = 0;
    if (waitpid(children[i], &status, 0) == children[i] && status == 0) continue;
    crashed = true;
    std::printf("%s: ended early, in %s\n", kCapabilities[i], shared->running[i]);
  }
  std::printf("%d passed, %d failed\n", shared->passed.load(), shared->failed.load());
  return crashed || shared->failed.load() > 0 || shared->passed.load() == 0 ? 1 : 0;
}

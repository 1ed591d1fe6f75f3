// Runs CPU sampling on odd shapes under the address and undefined-behaviour sanitizers. Every buffer has exactly the
// size it needs, and every token is compared with the result of a stable sort.
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
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "cpu/sample.h"
#include "numbers.h"

namespace {

using namespace ssg::test;
using ssg::Scalar;
using ssg::cpu::SampleCall;

constexpr const char* kCapabilities[] = {"avx512", "avx2", "baseline"};

int64_t workers = 1;

void parallel(int64_t tasks, int64_t, ssg::cpu::Body body, const void* context) {
  std::vector<std::thread> threads;
  for (int64_t worker = 0; worker < workers; ++worker) {
    const int64_t begin = worker * tasks / workers;
    const int64_t end = (worker + 1) * tasks / workers;
    if (begin < end) threads.emplace_back([=] { body(context, begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- numbers of each dtype ------------------------------------------------------------------------------------------

// A number near `value`; the half types round towards zero.
void encode(char* to, double value, Scalar scalar) {
  const float single = static_cast<float>(value);
  if (scalar == Scalar::float32) std::memcpy(to, &single, sizeof(single));
  if (scalar == Scalar::float64) std::memcpy(to, &value, sizeof(value));
  if (ssg::item_bytes(scalar) > 2) return;
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  uint32_t half = bits >> 16;
  if (scalar == Scalar::float16) {
    const double magnitude = std::abs(value);
    if (std::isnan(value))
      half = 0x7e00;
    else if (magnitude >= 65536)
      half = 0x7c00;
    else if (magnitude < 0x1p-14)
      half = static_cast<uint32_t>(magnitude * 0x1p24);
    else
      half = (((bits & 0x7fffffff) >> 13) - (112u << 10)) & 0x7fff;
    half |= bits >> 16 & 0x8000;
  }
  const auto stored = static_cast<uint16_t>(half);
  std::memcpy(to, &stored, sizeof(stored));
}

// ---- one case -------------------------------------------------------------------------------------------------------

struct Case {
  Scalar scalar = Scalar::float32;
  int64_t batch = 1;
  int64_t tokens = 1;
  int64_t vocabulary = 1;
  int kind = 0;     // of the logits
  int64_t gap = 0;  // elements between rows, and before the first one
  int64_t top_k = 0;
  double top_p = 0.0;
  int64_t threads = 1;
};

constexpr int kKinds = 8;

double logit(int kind, int64_t v, int64_t vocabulary, std::mt19937_64& random) {
  const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;
  switch (kind) {
    case 0: return 16 * (uniform - 0.5);
    case 1: return static_cast<double>(random() % 4);  // ties
    case 2: return 1.5;
    case 3: return uniform < 0.5 ? 0.0 : -0.0;
    case 4: return uniform < 0.5 ? -kInfinity : 8 * uniform;
    case 5: return v == vocabulary / 2 ? 2.0 : -kInfinity;
    case 6: return 3e4 * (uniform - 0.5);
    default: return -std::exp(40 * uniform - 38);  // many magnitudes, subnormal halves among them
  }
}

// ssg_kernels.reference.weigh, in 64-bit integers.
template <class T>
int64_t weight_in(T value, T largest, float scale) {
  const T origin = static_cast<float>(std::abs(largest)) * scale >= 35.0f ? largest : T(0);
  const T factor = scale * 0x1p25f;
  const auto place = [&](T x) {
    return static_cast<int64_t>(std::clamp<T>((x - origin) * factor, T(-63 * 0x1p25f), T(63 * 0x1p25f)));
  };
  const int64_t distance = std::min<int64_t>(place(largest) - place(value), int64_t{28} << 25);
  const int64_t octaves = (int64_t{41} << 26) - (distance * 3098164009 >> 30);
  const int64_t fraction = octaves & ((1 << 26) - 1);
  int64_t power = 0;
  for (int64_t coefficient : {232067, 1338725, 10388937, 59576866, 257944253, 744260972, 1073741824})
    power = (fraction * power >> 26) + coefficient;
  return ((power + 64) >> 7) << 16 >> (41 - (octaves >> 26));
}

// The share of the total, at most total - 1. The share counts in units of 2^-62.
int64_t part(int64_t total, int64_t share) {
  __extension__ using Wide = __int128;
  return std::min(static_cast<int64_t>(static_cast<Wide>(total) * share >> 62), total - 1);
}
int64_t share_of(double x) { return x > 0 ? std::max<int64_t>(static_cast<int64_t>(x * 0x1p62), 1) : 0; }

int64_t expected_token(const std::vector<double>& row, Scalar scalar, double uniform, double scale, int64_t top_k,
                       double top_p) {
  const auto n = static_cast<int64_t>(row.size());
  for (double value : row)
    if (std::isnan(value)) return -1;
  const double largest = *std::max_element(row.begin(), row.end());
  if (!std::isfinite(largest)) return -1;
  std::vector<int64_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return row[static_cast<size_t>(a)] < row[static_cast<size_t>(b)]; });
  std::vector<int64_t> weights;
  const auto factor = static_cast<float>(scale);
  for (double value : row)
    weights.push_back(scalar == Scalar::float64
                          ? weight_in(value, largest, factor)
                          : weight_in(static_cast<float>(value), static_cast<float>(largest), factor));
  if (top_k > 0) {
    const double kth = row[static_cast<size_t>(order[static_cast<size_t>(n - top_k)])];
    for (int64_t v = 0; v < n; ++v)
      if (row[static_cast<size_t>(v)] < kth) weights[static_cast<size_t>(v)] = 0;
  }
  if (top_p > 0) {
    const int64_t total = std::accumulate(weights.begin(), weights.end(), int64_t{0});
    const int64_t limit = part(total, (int64_t{1} << 62) - share_of(top_p));
    int64_t running = 0;
    for (int64_t v : order) {
      int64_t& weight = weights[static_cast<size_t>(v)];
      running += weight;
      if (running <= limit) weight = 0;
    }
  }
  const int64_t total = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  const int64_t target = part(total, share_of(uniform));
  int64_t running = 0;
  for (int64_t v = 0; v < n; ++v)
    if ((running += weights[static_cast<size_t>(v)]) > target) return v;
  return -2;
}

int failed = 0;
int passed = 0;

void test(const Case& c, std::mt19937_64& random) {
  const size_t bytes = static_cast<size_t>(ssg::item_bytes(c.scalar));
  const int64_t rows = c.batch * c.tokens;
  const int64_t token_stride = c.vocabulary + c.gap;
  const int64_t elements = rows == 0 ? 0 : c.gap + (rows - 1) * token_stride + c.vocabulary;
  const std::unique_ptr<char[]> memory(new char[static_cast<size_t>(elements) * bytes]);
  std::memset(memory.get(), 0xff, static_cast<size_t>(elements) * bytes);
  char* data = memory.get() + static_cast<size_t>(c.gap) * bytes * (rows > 0);
  const auto at = [&](int64_t r, int64_t v) { return data + static_cast<size_t>(r * token_stride + v) * bytes; };
  const std::unique_ptr<double[]> uniform(new double[static_cast<size_t>(rows)]);
  const std::unique_ptr<double[]> scale(new double[static_cast<size_t>(c.batch)]);
  const std::unique_ptr<int64_t[]> out(new int64_t[static_cast<size_t>(rows)]);
  for (int64_t b = 0; b < c.batch; ++b) scale[static_cast<size_t>(b)] = b % 2 == 0 ? 1.0 : 0.7;
  int64_t first_empty = -1;
  std::vector<int64_t> expected;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> row;
    // Some rows have no finite largest logit.
    const uint64_t spoilt = random() % 50;
    for (int64_t v = 0; v < c.vocabulary; ++v) {
      double value = logit(c.kind, v, c.vocabulary, random);
      if (spoilt == 0 && v == c.vocabulary - 1) value = std::nan("");
      if (spoilt == 1 && v == 0) value = kInfinity;
      if (spoilt == 2) value = -kInfinity;
      if (spoilt == 3 && v == c.vocabulary / 2) value = std::copysign(std::nan(""), -1.0);
      encode(at(r, v), value, c.scalar);
      row.push_back(decode(at(r, v), c.scalar));
    }
    const uint64_t draw = random();
    uniform[static_cast<size_t>(r)] =
        draw % 2 == 0 ? static_cast<double>(draw % 8) / 8 : static_cast<double>(draw >> 11) * 0x1p-53;
    expected.push_back(expected_token(row, c.scalar, uniform[static_cast<size_t>(r)],
                                      scale[static_cast<size_t>(r / c.tokens)], c.top_k, c.top_p));
    if (expected.back() == -1 && first_empty < 0) first_empty = r;
  }

  SampleCall call;
  call.scalar = c.scalar;
  call.batch = c.batch;
  call.tokens = c.tokens;
  call.vocabulary = c.vocabulary;
  call.logits = {data, c.tokens * token_stride, token_stride};
  call.uniform = uniform.get();
  call.uniform_is_double = true;
  call.uniform_batch_stride = c.tokens;
  call.uniform_token_stride = 1;
  call.scale = scale.get();
  const std::vector<double> top_k(static_cast<size_t>(c.batch), static_cast<double>(c.top_k));
  call.top_k = top_k.data();
  const std::vector<double> top_p(static_cast<size_t>(c.batch), c.top_p);
  call.top_p = top_p.data();
  call.out = out.get();
  workers = c.threads;
  const int64_t empty = ssg::cpu::sample(call, parallel);
  bool right = empty == first_empty;
  for (int64_t r = 0; r < rows; ++r) right = right && out[static_cast<size_t>(r)] == expected[static_cast<size_t>(r)];
  ++(right ? passed : failed);
  if (!right)
    std::printf("%s, B %d, L %d, V %d, kind %d, gap %d, top_k %d, top_p %g, threads %d: wrong\n",
                name_of(ssg::kDtypes, c.scalar), static_cast<int>(c.batch), static_cast<int>(c.tokens),
                static_cast<int>(c.vocabulary), c.kind, static_cast<int>(c.gap), static_cast<int>(c.top_k), c.top_p,
                static_cast<int>(c.threads));
}

// Runs in a process of its own, since a process chooses its kernel once.
int run_all(const char* capability) {
  setenv("SSG_KERNELS_CPU_CAPABILITY", capability, 1);
  if (std::strcmp(ssg::cpu::kernel().name, capability) != 0) {
    std::printf("%s: not on this machine, or not in this build\n", capability);
    return 0;
  }
  std::mt19937_64 random(20260730);
  std::vector<int64_t> vocabularies = {100, 255, 1000, 2049, 4096, 5001};
  for (int64_t v = 1; v <= 68; ++v) vocabularies.push_back(v);
  const double top_ps[] = {0.0, 0.5, 0.96, 1.0, 1e-17};
  for (Scalar scalar : kScalars)
    for (int64_t vocabulary : vocabularies)
      for (int kind = 0; kind < kKinds; ++kind) {
        Case c;
        c.scalar = scalar;
        c.kind = kind;
        c.vocabulary = vocabulary;
        c.batch = static_cast<int64_t>(random() % 3) + (vocabulary != 5);
        c.tokens = static_cast<int64_t>(random() % 5) + 1;
        c.gap = static_cast<int64_t>(random() % 3);
        const int64_t top_ks[] = {0, 1, vocabulary / 2, vocabulary, static_cast<int64_t>(random()) % vocabulary};
        c.top_k = std::max<int64_t>(0, top_ks[random() % 5]);
        c.top_p = top_ps[random() % 5];
        c.threads = 1 + static_cast<int64_t>(random() % 3);
        test(c, random);
      }
  Case bits;
  bits.vocabulary = 2;
  bits.tokens = 5000;
  bits.top_p = 0.7;
  bits.threads = 3;
  test(bits, random);
  std::printf("%s: %d passed, %d failed\n", capability, passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}

}  // namespace

int main() {
  bool wrong = false;
  for (const char* capability : kCapabilities) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) std::exit(run_all(capability));
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) {
      std::printf("%s: ended with %d\n", capability, status);
      wrong = true;
    }
  }
  return wrong ? 1 : 0;
}

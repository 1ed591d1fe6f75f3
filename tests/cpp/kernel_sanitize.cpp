// Runs the CPU kernel on odd shapes under the address and undefined-behaviour sanitizers. Every buffer has exactly the
// size it needs, and every value is compared with the dense operator in double.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_check.h"

namespace {

using namespace ssg::test;
using ssg::Grid;
using ssg::Scalar;
using ssg::StepKey;

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
  ++ssg::test::allocations;
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

// Runs a case, on threads of its own, and checks everything that it wrote.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/kernel.h"
#include "kernel_expect.h"

namespace ssg::test {

inline thread_local int64_t allocations = 0;

inline int64_t workers = 1;
inline bool one_by_one = false;  // each task goes to the first free thread; else each thread gets a run of tasks
inline int64_t last_tasks = 0;

inline void parallel(int64_t tasks, int64_t, ssg::cpu::Body body, const void* context) {
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

inline int64_t row_grouped_cases = 0;

inline std::string check(const Case& c, Random& random) {
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

}  // namespace ssg::test

#include "fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

namespace ssg::cuda::host {

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
// swapcontext makes a system call for the signal mask at every switch, which costs ten times as much as this.
#define SSG_OWN_SWITCH
asm(R"(
.text
.type ssg_switch_stack, @function
ssg_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ssg_switch_stack, .-ssg_switch_stack
)");
extern "C" void ssg_switch_stack(void** save, void* load) __asm__("ssg_switch_stack");
#endif

namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kGuardBytes = 256;

enum class State : int8_t { ready, at_barrier, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  Thread thread;
  State state = State::ready;
  std::vector<Copy> started;
  std::vector<Copy> committed;
  int votes = 0;  // barriers that it voted at
  int turn = 0;   // which of the warp's two exchange buffers is next
#if defined(SSG_OWN_SWITCH)
  void* stack = nullptr;
#else
  ucontext_t context;
#endif
};

struct Warp {
  Exchange lanes[2][32];
};

struct Scheduler {
  Block block;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<unsigned char[]>> stacks;
  std::vector<unsigned char> shared;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  bool any[3] = {};  // the results of the last votes
  Fiber* running = nullptr;
#if defined(SSG_OWN_SWITCH)
  void* main = nullptr;
#else
  ucontext_t main;
#endif
};

thread_local Scheduler* scheduler = nullptr;

void leave(State state) {
  Fiber& fiber = *scheduler->running;
  fiber.state = state;
#if defined(SSG_OWN_SWITCH)
  ssg_switch_stack(&fiber.stack, scheduler->main);
#else
  swapcontext(&fiber.context, &scheduler->main);
#endif
}

void enter() {
  try {
    (*scheduler->body)();
  } catch (...) {
    if (!scheduler->error) scheduler->error = std::current_exception();
  }
  leave(State::done);
}

void resume(Fiber& fiber) {
  scheduler->running = &fiber;
#if defined(SSG_OWN_SWITCH)
  ssg_switch_stack(&scheduler->main, fiber.stack);
#else
  swapcontext(&scheduler->main, &fiber.context);
#endif
}

void prepare(Fiber& fiber, unsigned char* stack) {
#if defined(SSG_OWN_SWITCH)
  // The stack looks as if `enter` had called ssg_switch_stack: six registers, then the return address. After the return
  // the stack pointer is 8 off a multiple of 16, as it is when a function is entered.
  auto top = (reinterpret_cast<uintptr_t>(stack) + kStackBytes) / 16 * 16;
  auto** slots = reinterpret_cast<void**>(top) - 8;
  std::fill(slots, slots + 8, nullptr);
  slots[6] = reinterpret_cast<void*>(&enter);
  fiber.stack = slots;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &enter, 0);
#endif
}

// Runs a warp until all its lanes wait at a barrier or are done.
void run_warp(Scheduler& s, int warp, Order order) {
  for (;;) {
    int at_warp = 0;
    int lanes = 0;
    for (int i = 0; i < 32; ++i) {
      const int lane = order == Order::forward ? i : 31 - i;
      Fiber& fiber = s.fibers[static_cast<size_t>(warp * 32 + lane)];
      if (fiber.state == State::ready) resume(fiber);
      if (s.error) return;
      at_warp += fiber.state == State::at_warp;
      ++lanes;
    }
    if (at_warp == 0) return;
    if (at_warp != lanes) throw std::logic_error("a warp instruction was reached by a part of the warp");
    for (int lane = 0; lane < 32; ++lane) s.fibers[static_cast<size_t>(warp * 32 + lane)].state = State::ready;
  }
}

}  // namespace

const Thread& current() { return scheduler->running->thread; }

void run_block(int64_t index, int64_t count, int threads, size_t shared_bytes, Order order,
               const std::function<void()>& body) {
  static thread_local Scheduler own;
  Scheduler& s = own;
  scheduler = &s;
  if (threads <= 0 || threads % 32 != 0) throw std::logic_error("a block's threads come in warps");
  s.fibers.resize(static_cast<size_t>(threads));
  s.warps.resize(static_cast<size_t>(threads) / 32);
  while (s.stacks.size() < s.fibers.size()) s.stacks.emplace_back(new unsigned char[kStackBytes]);
  s.shared.assign(shared_bytes + kGuardBytes + 128, 0xff);
  s.body = &body;
  s.error = nullptr;
  std::fill(s.any, s.any + 3, false);
  auto* base = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(s.shared.data()) + 127) / 128 * 128);
  s.block = {index, count, threads, base, shared_bytes};
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = s.fibers[static_cast<size_t>(t)];
    fiber.thread = {t, &s.block};
    fiber.state = State::ready;
    fiber.turn = 0;
    fiber.votes = 0;
    fiber.started.clear();
    fiber.committed.clear();
    prepare(fiber, s.stacks[static_cast<size_t>(t)].get());
  }
  const int warps = threads / 32;
  for (bool done = false; !done;) {
    for (int i = 0; i < warps; ++i) {
      run_warp(s, order == Order::forward ? i : warps - 1 - i, order);
      if (s.error) std::rethrow_exception(s.error);
    }
    const auto finished =
        std::count_if(s.fibers.begin(), s.fibers.end(), [](const Fiber& fiber) { return fiber.state == State::done; });
    if (finished != 0 && finished != threads) throw std::logic_error("a barrier was reached by a part of the block");
    done = finished == threads;
    if (!done)
      for (Fiber& fiber : s.fibers) fiber.state = State::ready;
  }
  for (const Fiber& fiber : s.fibers)
    if (!fiber.started.empty() || !fiber.committed.empty())
      throw std::logic_error("a thread ended with copies under way");
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (base[shared_bytes + i] != 0xff) throw std::logic_error("something was written behind the shared memory");
}

void block_barrier() { leave(State::at_barrier); }

bool block_barrier_or(bool condition) {
  // A thread is at most one vote ahead of another that still reads its result, so three results are enough.
  const int vote = scheduler->running->votes++;
  scheduler->any[(vote + 1) % 3] = false;
  scheduler->any[vote % 3] |= condition;
  leave(State::at_barrier);
  return scheduler->any[vote % 3];
}

const Exchange* exchange(const float (&a)[4], const float (&b)[2], int depth) {
  Fiber& fiber = *scheduler->running;
  const int lane = fiber.thread.thread % 32;
  auto& lanes = scheduler->warps[static_cast<size_t>(fiber.thread.thread / 32)].lanes[fiber.turn];
  // A lane is at most one instruction ahead of the others, so two buffers are enough.
  fiber.turn = 1 - fiber.turn;
  std::copy(a, a + 4, lanes[lane].a);
  std::copy(b, b + 2, lanes[lane].b);
  lanes[lane].depth = depth;
  leave(State::at_warp);
  if (lanes[0].depth != depth) throw std::logic_error("the lanes of a warp issue different instructions");
  return lanes;
}

void copy_async(void* to, const void* from, size_t bytes) {
  std::memset(to, 0xff, bytes);
  scheduler->running->started.push_back({to, from, bytes});
}

void copy_async_commit() {
  Fiber& fiber = *scheduler->running;
  fiber.committed.insert(fiber.committed.end(), fiber.started.begin(), fiber.started.end());
  fiber.started.clear();
}

void copy_async_wait() {
  Fiber& fiber = *scheduler->running;
  for (const Copy& copy : fiber.committed) std::memcpy(copy.to, copy.from, copy.bytes);
  fiber.committed.clear();
}

void check_alignment(const void* at, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(at) % alignment != 0)
    throw std::logic_error("an access of " + std::to_string(alignment) + " bytes is not aligned");
}

void check_shared(const void* at, size_t bytes, size_t alignment) {
  const Block& block = *scheduler->running->thread.block;
  const auto* begin = static_cast<const unsigned char*>(at);
  if (begin < block.shared || begin + bytes > block.shared + block.shared_bytes)
    throw std::logic_error("an access lies " + std::to_string(begin - block.shared) + " bytes into " +
                           std::to_string(block.shared_bytes) + " bytes of shared memory");
  check_alignment(at, alignment);
}

}  // namespace ssg::cuda::host

// A block of threads on the host: fibers of one operating-system thread, switched at barriers and warp instructions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace ssg::cuda::host {

struct Exchange {
  float a[4];
  float b[2];
  int depth;
};

struct Block {
  int64_t index = 0;
  int64_t count = 1;
  int threads = 32;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
};

struct Thread {
  int thread = 0;
  Block* block = nullptr;
};

// The thread that is running.
const Thread& current();

// The order in which the threads of a block run between two barriers. A race gives different results in the two.
enum class Order : int8_t { forward, reverse };

// Runs body as every thread of a block, with `shared_bytes` of shared memory full of NaN. Throws what a thread throws,
// and std::logic_error where a thread never reaches the barrier of the others or writes behind the shared memory.
void run_block(int64_t index, int64_t count, int threads, size_t shared_bytes, Order order,
               const std::function<void()>& body);

void block_barrier();
// The same; whether any thread came with a true condition.
bool block_barrier_or(bool condition);

// Gives this lane's operands to its warp, waits for all 32 lanes, and returns the operands of all.
const Exchange* exchange(const float (&a)[4], const float (&b)[2], int depth);

// Asynchronous copies. The target is NaN from the start of a copy until the wait, which reads the source.
void copy_async(void* to, const void* from, size_t bytes);
void copy_async_commit();
void copy_async_wait();

void check_shared(const void* at, size_t bytes, size_t alignment);
void check_alignment(const void* at, size_t alignment);

}  // namespace ssg::cuda::host

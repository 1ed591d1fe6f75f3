// device/threads.h on the host.
#pragma once

#include <cstdint>

#include "../device/base.h"
#include "fibers.h"

namespace ssg::cuda {

inline int thread_index() { return host::current().thread; }
inline int thread_count() { return host::current().block->threads; }
inline int64_t block_index() { return host::current().block->index; }
inline int64_t block_count() { return host::current().block->count; }
inline void barrier() { host::block_barrier(); }
inline int here(int x) { return x; }
inline uint32_t here(uint32_t x) { return x; }
inline int64_t here(int64_t x) { return x; }
inline int64_t stepped(int64_t x, int64_t y) { return x + y; }
inline bool barrier_or(bool condition) { return host::block_barrier_or(condition); }

}  // namespace ssg::cuda

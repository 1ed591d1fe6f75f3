#include "memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ssg::cpu {

void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  // Allocators take memory of this size straight from the system, so it is fresh. Smaller memory may be recycled.
  constexpr int64_t kFreshBytes = int64_t{32} << 20;
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  if (bytes < kFreshBytes) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace ssg::cpu

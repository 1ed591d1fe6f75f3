#include "memory.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ssg::cpu {

#if defined(__linux__)
namespace {

// Whether the allocator has mapped a block of its own, which returns to the system when it is freed. The other blocks
// lie in the heap. Their pages may be there already, and where the allocator has given them back to the system and asks
// for them again, huge pages cost more than they save.
bool is_mapped_alone(uintptr_t data) {
  // Behind glibc's header of 16 bytes, a mapped block begins at the first address that torch's alignment allows.
  constexpr uintptr_t kPage = 4096;
  constexpr uintptr_t kTorchAlignment = 64;
  if (data % kPage != kTorchAlignment) return false;
  return data >= reinterpret_cast<uintptr_t>(sbrk(0));  // a block in the heap may begin there by chance
}

}  // namespace
#endif

void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kLargeBytes = int64_t{32} << 20;  // smaller blocks are seldom mapped alone
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(data);
  if (bytes < kLargeBytes || !is_mapped_alone(address)) return;
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

void* allocate_scratch(size_t bytes) {
  constexpr size_t kLine = 64;
  constexpr size_t kHugePage = size_t{2} << 20;
  // From half a page on, a huge page costs little memory and saves many entries of the processor's page tables.
  if (2 * bytes < kHugePage) return std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine);
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, rounded);
#if defined(__linux__)
  if (data != nullptr) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace ssg::cpu

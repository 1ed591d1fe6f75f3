// Memory in huge pages, where the operating system has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssg::cpu {

// Asks for huge pages for memory that has not been touched yet, since the page faults of a large result can cost more
// than computing it. Does nothing on systems other than Linux.
void advise_huge_pages(void* data, int64_t bytes);

// Uninitialised memory on a cache line, for std::free. Null where there is none.
void* allocate_scratch(size_t bytes);

}  // namespace ssg::cpu

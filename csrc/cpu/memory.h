// A hint to the operating system about a large, freshly allocated result.
#pragma once

#include <cstdint>

namespace ssg::cpu {

// Asks for huge pages for memory that has not been touched yet, since the page faults of a large result can cost more
// than computing it. Does nothing on systems other than Linux.
void advise_huge_pages(void* data, int64_t bytes);

}  // namespace ssg::cpu

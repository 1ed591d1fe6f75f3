// Hints to the operating system about a large, freshly allocated result.
#pragma once

#include <cstdint>

namespace ssg::cpu {

// Asks for huge pages where the memory has not been touched yet: faulting in a large result by small pages can cost
// more than computing it. Only a hint; elsewhere than on Linux it does nothing.
void advise_huge_pages(void* data, int64_t bytes);

}  // namespace ssg::cpu

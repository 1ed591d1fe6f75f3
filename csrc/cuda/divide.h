// Division by a number that is known before the launch.
#pragma once

#include "device.h"
#include "params.h"

namespace ssg::cuda {

SSG_DEVICE int divide(int n, const Divisor& by) {
  return by.divisor == 1 ? n : static_cast<int>(multiply_high(static_cast<uint32_t>(n), by.factor));
}

}  // namespace ssg::cuda

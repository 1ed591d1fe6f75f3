// Values in error messages, written as Python writes them: ssg_kernels/_checks.py raises the same sentences.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "factors.h"

namespace ssg::ops {

using torch::headeronly::ScalarType;

// Throws std::runtime_error with the parts, one after the other, as its text.
template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// A tuple of integers.
template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < sizes.size(); ++i) text << (i == 0 ? "" : ", ") << sizes[i];
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

// A number that is not negative.
std::string wide_text(Wide value);

// A float in Python's format "g".
std::string number_text(double value);

// The text of a torch.dtype.
std::string dtype_text(ScalarType type);

}  // namespace ssg::ops

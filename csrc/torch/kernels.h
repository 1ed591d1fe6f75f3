// The kernels that are registered with torch. Every device gets the same ones; a kernel looks where its tensors are.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ssg::ops {

struct Kernel {
  std::string name;  // of the operator and its overload, without the namespace
  void (*boxed)(StableIValue* stack, uint64_t arguments, uint64_t results);
};

inline std::string joined(const std::string& op, const std::string& overload) {
  return overload.empty() ? op : op + "." + overload;
}

void append_guided(std::vector<Kernel>& kernels);
void append_prior_linear(std::vector<Kernel>& kernels);
void append_sample(std::vector<Kernel>& kernels);

}  // namespace ssg::ops

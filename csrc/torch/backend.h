// Who computes a call: the kernels here, or Python.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>

namespace ssg::ops {

// Why the CUDA kernels cannot serve the device, or null where they can.
const char* cuda_unavailable(int32_t device);

// Whether the kernels here serve a call whose first argument is the tensor `first`: they can serve its device, and
// SSG_KERNELS_BACKEND asks for no other backend. The argument stays on the stack.
bool serves(StableIValue first);

// Hands a whole call to the operator's twin in Python, ssg::_fallback_<operator>. The twin checks the call, chooses the
// backend and computes. The stack then holds the result. Throws std::runtime_error with the text of an error in Python.
void fall_back(const std::string& op, const std::string& overload, StableIValue* stack);

}  // namespace ssg::ops

// Who computes a call: the kernels here, or Python.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>

#include "tensor.h"

namespace ssg::ops {

// Whether the kernels here serve a call whose first argument is the tensor `first`: they can serve its device, and
// SSG_KERNELS_BACKEND asks for no other backend. The argument stays on the stack.
bool serves(StableIValue first);

// Hands a whole call to the operator's twin in Python, ssg::_fallback_<operator>. The twin checks the call, chooses the
// backend and computes. The stack then holds the result. Throws std::runtime_error with the text of an error in Python.
// False where there is no Python; the stack is as before.
bool fall_back(const std::string& op, const std::string& overload, StableIValue* stack);

// Throws std::runtime_error, which says why the kernels here do not serve tensors on the device.
[[noreturn]] void refuse(const char* op, const Device& device);

}  // namespace ssg::ops

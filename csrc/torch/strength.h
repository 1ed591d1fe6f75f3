// Strengths: numbers per sample. A caller passes a float, or a tensor of shape () or (B,).
#pragma once

#include <cstdint>
#include <optional>

#include "call.h"
#include "tensor.h"

namespace ssg::ops {

class StrengthArgument {
 public:
  explicit StrengthArgument(double value = 0.0) : value_(value) {}
  explicit StrengthArgument(Tensor tensor) : tensor_(std::move(tensor)) {}
  // Reads an argument from the stack of a boxed call.
  static StrengthArgument from_stack(StableIValue value, bool is_float);

  // Null for a float.
  const Operand* operand() const { return tensor_ ? &*tensor_ : nullptr; }
  // Where the numbers lie, once the argument has been checked.
  Strength strength() const;

 private:
  std::optional<Operand> tensor_;
  double value_ = 0.0;
};

// Element i of an array on the CPU.
double number_at(const void* data, Scalar scalar, int64_t i);
// Sample b's number, where the numbers lie on the CPU.
double number_of(const Strength& strength, int64_t b);

}  // namespace ssg::ops

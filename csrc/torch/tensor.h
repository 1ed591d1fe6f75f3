// Tensors, as the operators use them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "call.h"

namespace ssg::ops {

using torch::headeronly::ScalarType;

// A tensor of a call. torch::stable::Tensor would allocate a reference count for each.
class Tensor {
 public:
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  // Takes an argument from the stack of a boxed call.
  explicit Tensor(StableIValue value) : Tensor(torch::stable::detail::to<AtenTensorHandle>(value)) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor();

  AtenTensorHandle get() const { return handle_; }
  // Gives the tensor away, as a result on the stack.
  StableIValue release() { return torch::stable::detail::from(std::exchange(handle_, nullptr)); }
  torch::headeronly::IntHeaderOnlyArrayRef sizes() const;
  torch::headeronly::IntHeaderOnlyArrayRef strides() const;
  int64_t dim() const;
  int64_t numel() const;
  ScalarType dtype() const;
  const void* const_data_ptr() const;
  void* mutable_data_ptr() const;

 private:
  AtenTensorHandle handle_;
};

std::optional<Scalar> scalar_of(ScalarType type);

struct Device {
  int32_t type;
  int32_t index;  // -1 for the CPU
  bool is_cpu() const { return type == aoti_torch_device_type_cpu(); }
  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
  std::string text() const;
};
Device device_of(AtenTensorHandle x);

// A tensor with its facts, which a call asks for once.
struct Operand {
  Tensor tensor;
  ScalarType dtype;
  Device device;
  int64_t dim;
  // Known where the tensor has at most three dimensions, as (B, L, V) logits do.
  int64_t size[3] = {};
  int64_t stride[3] = {};

  explicit Operand(Tensor x);
  bool empty() const;
  std::string shape() const;
};

// A new contiguous tensor on the device of x.
Tensor empty_like(const Operand& x, std::initializer_list<int64_t> sizes, ScalarType dtype);

// x where a kernel can read it in place. Else a copy, since its vocabulary is strided.
Operand readable(Operand x);

// The samples of logits from `first` on, as kernels take them.
Logits logits_at(const Operand& x, int64_t first);

}  // namespace ssg::ops

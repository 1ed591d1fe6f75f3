#include "tensor.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "text.h"

namespace ssg::ops {

Tensor::~Tensor() {
  if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
}

torch::headeronly::IntHeaderOnlyArrayRef Tensor::sizes() const {
  int64_t* sizes = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle_, &sizes));
  return {sizes, static_cast<size_t>(dim())};
}

torch::headeronly::IntHeaderOnlyArrayRef Tensor::strides() const {
  int64_t* strides = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle_, &strides));
  return {strides, static_cast<size_t>(dim())};
}

int64_t Tensor::dim() const {
  int64_t dim = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle_, &dim));
  return dim;
}

int64_t Tensor::numel() const {
  int64_t numel = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(handle_, &numel));
  return numel;
}

ScalarType Tensor::dtype() const {
  int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle_, &dtype));
  try {
    return torch::stable::detail::to<ScalarType>(torch::stable::detail::from(dtype));
  } catch (const std::exception&) {  // a dtype that the stable ABI does not convert, which a message has to name
    return static_cast<ScalarType>(dtype);
  }
}

const void* Tensor::const_data_ptr() const {
  const void* data = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(handle_, &data));
  return data;
}

void* Tensor::mutable_data_ptr() const {
  void* data = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_mutable_data_ptr(handle_, &data));
  return data;
}

std::optional<Scalar> scalar_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return Scalar::float32;
    case ScalarType::Double: return Scalar::float64;
    case ScalarType::BFloat16: return Scalar::bfloat16;
    case ScalarType::Half: return Scalar::float16;
    case ScalarType::Byte: return Scalar::uint8;
    case ScalarType::Char: return Scalar::int8;
    case ScalarType::Short: return Scalar::int16;
    case ScalarType::Int: return Scalar::int32;
    case ScalarType::Long: return Scalar::int64;
    case ScalarType::Bool: return Scalar::boolean;
    default: return std::nullopt;
  }
}

std::string Device::text() const {
  if (is_cpu()) return "cpu";
  const std::string name = type == aoti_torch_device_type_cuda()   ? "cuda"
                           : type == aoti_torch_device_type_meta() ? "meta"
                                                                   : "device type " + std::to_string(type);
  return index < 0 ? name : name + ":" + std::to_string(index);
}

Device device_of(AtenTensorHandle x) {
  Device device = {0, -1};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x, &device.type));
  if (!device.is_cpu()) STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x, &device.index));
  return device;
}

Operand::Operand(Tensor x)
    : tensor(std::move(x)), dtype(tensor.dtype()), device(device_of(tensor.get())), dim(tensor.dim()) {
  if (dim > 3) return;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (int64_t d = 0; d < dim; ++d) {
    size[d] = sizes[d];
    stride[d] = strides[d];
  }
  // A stride that leads to no second element may be any number, and its product with the item size may overflow.
  for (int64_t d = 0; d < dim; ++d)
    if (size[d] <= 1 || (empty() && d < 2)) stride[d] = 0;
}

bool Operand::empty() const { return std::find(size, size + dim, 0) != size + dim; }

std::string Operand::shape() const { return shape_text(tensor.sizes()); }

Tensor empty_like(const Operand& x, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  int64_t strides[3];
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    if (d > 0 && __builtin_mul_overflow(stride, std::max<int64_t>(sizes.begin()[d], 1), &stride))
      fail("a result of shape ", shape_text(std::vector<int64_t>(sizes)), " is too large");
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), x.device.type, x.device.index, &handle));
  return Tensor(handle);
}

Operand readable(Operand x) {
  if (x.stride[2] == 1 || x.size[2] <= 1 || x.size[0] == 0) return x;
  StableIValue stack[] = {x.tensor.release(), torch::stable::detail::from(torch::headeronly::MemoryFormat::Contiguous)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::contiguous", "", stack, TORCH_ABI_VERSION));
  return Operand(Tensor(stack[0]));
}

Logits logits_at(const Operand& x, int64_t first) {
  const auto* data = static_cast<const char*>(x.tensor.const_data_ptr());
  const int64_t bytes = item_bytes(*scalar_of(x.dtype));
  return {data + first * x.stride[0] * bytes, x.stride[0], x.stride[1]};
}

}  // namespace ssg::ops

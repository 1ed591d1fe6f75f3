#include "tensor.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>

#include "text.h"

namespace ssg::ops {

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
    : tensor(std::move(x)), dtype(tensor.scalar_type()), device(device_of(tensor.get())), dim(tensor.dim()) {
  if (dim > 3) return;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (int64_t d = 0; d < dim; ++d) {
    size[d] = sizes[d];
    stride[d] = strides[d];
  }
}

std::string Operand::shape() const { return shape_text(tensor.sizes()); }

Tensor empty_like(const Operand& x, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  int64_t strides[3];
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes.begin()[d], 1);
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), x.device.type, x.device.index, &handle));
  return Tensor(handle);
}

Operand readable(Operand x) {
  if (x.stride[2] == 1 || x.size[2] <= 1 || x.size[0] == 0) return x;
  return Operand(torch::stable::contiguous(x.tensor));
}

Logits logits_at(const Operand& x, int64_t first) {
  const auto* data = static_cast<const char*>(x.tensor.const_data_ptr());
  const int64_t bytes = item_bytes(*scalar_of(x.dtype));
  return {data + first * x.stride[0] * bytes, x.stride[0], x.stride[1]};
}

}  // namespace ssg::ops

#include "strength.h"

namespace ssg::ops {

StrengthArgument StrengthArgument::from_stack(StableIValue value, bool is_float) {
  if (is_float) return StrengthArgument(torch::stable::detail::to<double>(value));
  return StrengthArgument(Tensor(value));
}

Strength StrengthArgument::strength() const {
  if (!tensor_) return {nullptr, 0, Scalar::float64, value_};
  return {tensor_->tensor.const_data_ptr(), tensor_->dim == 1 ? tensor_->stride[0] : 0, *scalar_of(tensor_->dtype),
          0.0};
}

double number_at(const void* data, Scalar scalar, int64_t i) {
  const auto read = [&](auto zero) { return static_cast<double>(static_cast<const decltype(zero)*>(data)[i]); };
  const auto read_half = [&](auto zero) {
    return static_cast<double>(static_cast<float>(static_cast<const decltype(zero)*>(data)[i]));
  };
  switch (scalar) {
    case Scalar::float32: return read(float{});
    case Scalar::float64: return read(double{});
    case Scalar::bfloat16: return read_half(torch::headeronly::BFloat16{});
    case Scalar::float16: return read_half(torch::headeronly::Half{});
    case Scalar::uint8: return read(uint8_t{});
    case Scalar::int8: return read(int8_t{});
    case Scalar::int16: return read(int16_t{});
    case Scalar::int32: return read(int32_t{});
    case Scalar::int64: return read(int64_t{});
    case Scalar::boolean: return read(bool{});
  }
  return 0.0;
}

double number_of(const Strength& strength, int64_t b) {
  if (strength.data == nullptr) return strength.value;
  return number_at(strength.data, strength.scalar, b * strength.stride);
}

}  // namespace ssg::ops

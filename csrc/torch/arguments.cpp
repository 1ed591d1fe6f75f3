#include "arguments.h"

#include <algorithm>

namespace ssg::ops {

using torch::stable::detail::to;

Ints::Ints(StableIValue value) {
  const auto list = to<StableListHandle>(value);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_list_size(list, &size_));
  for (size_t i = 0; i < std::min(size_, kKept); ++i) {
    StableIValue item = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_list_get_item(list, i, &item));
    values_[i] = to<int64_t>(item);
  }
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_list(list));
}

std::string_view Text::view() const {
  const char* data = nullptr;
  size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle_, &data));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle_, &length));
  return {data, length};
}

namespace {

std::array<StrengthArgument, kMostStrengths> strengths_of(const GuidedOverload& overload, const StableIValue* stack) {
  std::array<StrengthArgument, kMostStrengths> strengths;
  for (size_t s = 0; s < overload.op.strengths; ++s)
    strengths[s] = StrengthArgument::from_stack(stack[s], overload.is_float(s));
  return strengths;
}

}  // namespace

GuidedArguments::GuidedArguments(const GuidedOverload& overload, const StableIValue* stack)
    : overload(overload),
      logits(Tensor(stack[0])),
      prev_logits(Tensor(stack[1])),
      size(stack[2]),
      prev_size(stack[3]),
      strengths(strengths_of(overload, stack + 4)),
      prior(stack[4 + overload.op.strengths]),
      interpolation(stack[5 + overload.op.strengths]),
      rescale(to<bool>(stack[6 + overload.op.strengths])) {
  if (overload.is_out) out.emplace(Tensor(stack[7 + overload.op.strengths]));
}

PriorLinearArguments::PriorLinearArguments(const StableIValue* stack)
    : x(Tensor(stack[0])),
      scale(Tensor(stack[1])),
      size(stack[2]),
      prev_size(stack[3]),
      prior(stack[4]),
      interpolation(stack[5]),
      rescale(to<bool>(stack[6])),
      transpose(to<bool>(stack[7])) {}

SampleArguments::SampleArguments(ScaleKind kind, bool filters_are_numbers, const StableIValue* stack)
    : logits(Tensor(stack[0])), uniform(Tensor(stack[1])), scale(1.0) {
  stack += 2;
  if (kind != ScaleKind::none) scale = StrengthArgument::from_stack(*stack++, kind == ScaleKind::number);
  top_k = filters_are_numbers ? StrengthArgument(static_cast<double>(to<int64_t>(stack[0])))
                              : StrengthArgument(Tensor(stack[0]));
  top_p = StrengthArgument::from_stack(stack[1], filters_are_numbers);
}

}  // namespace ssg::ops

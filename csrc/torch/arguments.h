// The arguments of the operators, read from the stack of a boxed call. Who reads an argument owns it and frees it.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "names.h"
#include "strength.h"
#include "tensor.h"

namespace ssg::ops {

// torch's own conversions to std::vector and std::string would cost a small call a tenth of its time.
class Ints {
 public:
  explicit Ints(StableIValue value);
  size_t size() const { return size_; }
  int64_t operator[](size_t i) const { return i < kKept ? values_[i] : 0; }

 private:
  static constexpr size_t kKept = 4;  // a grid has two, an error message shows some more
  size_t size_ = 0;
  int64_t values_[kKept] = {};
};

class Text {
 public:
  explicit Text(StableIValue value) : handle_(torch::stable::detail::to<StringHandle>(value)) {}
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;
  ~Text() { torch_delete_string(handle_); }
  std::string_view view() const;

 private:
  StringHandle handle_;
};

// (logits, prev_logits, size, prev_size, the strengths, prior, interpolation, rescale, `out` where the overload has it)
struct GuidedArguments {
  GuidedOverload overload;
  Operand logits;
  Operand prev_logits;
  Ints size;
  Ints prev_size;
  std::array<StrengthArgument, kMostStrengths> strengths;
  Text prior;
  Text interpolation;
  bool rescale;
  std::optional<Operand> out;

  GuidedArguments(const GuidedOverload& overload, const StableIValue* stack);
  const char* name() const { return overload.op.name; }
  int64_t sources() const { return overload.op.is_cfg() ? 2 : 1; }
  int64_t batch() const { return logits.size[0] / sources(); }  // of the result
};

// (x, scale, size, prev_size, prior, interpolation, rescale, transpose)
struct PriorLinearArguments {
  Operand x;
  StrengthArgument scale;
  Ints size;
  Ints prev_size;
  Text prior;
  Text interpolation;
  bool rescale;
  bool transpose;

  explicit PriorLinearArguments(const StableIValue* stack);
};

// How the scale of `sample` is passed.
enum class ScaleKind { none, tensor, number };

// (logits, uniform, scale unless it is ScaleKind::none, top_k, top_p)
struct SampleArguments {
  Operand logits;
  Operand uniform;
  StrengthArgument scale;  // 1 for ScaleKind::none
  StrengthArgument top_k;
  StrengthArgument top_p;

  SampleArguments(ScaleKind kind, bool filters_are_numbers, const StableIValue* stack);
};

}  // namespace ssg::ops

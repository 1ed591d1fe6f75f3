// The names of priors, interpolations, dtypes and of the guided operators' overloads. C++ has them nowhere else;
// tests/core/test_names.py compares them with the names in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "call.h"

namespace ssg {

enum class Prior : int8_t { dse, dse_zero_pad, spatial };
enum class Interpolation : int8_t { nearest, bilinear, bicubic, area };

template <class Enum>
struct Named {
  const char* name;
  Enum value;
};

// A list of names, in the order in which messages show them.
template <class Enum>
struct Names {
  const Named<Enum>* first;
  size_t count;
  template <size_t N>
  constexpr Names(const Named<Enum> (&names)[N], size_t count = N) : first(names), count(count) {}
  constexpr const Named<Enum>* begin() const { return first; }
  constexpr const Named<Enum>* end() const { return first + count; }
};

namespace names {

inline constexpr Named<Prior> kPriorNames[] = {
    {"dse", Prior::dse}, {"dse_zero_pad", Prior::dse_zero_pad}, {"spatial", Prior::spatial}};
inline constexpr Named<Interpolation> kInterpolationNames[] = {{"nearest", Interpolation::nearest},
                                                               {"bilinear", Interpolation::bilinear},
                                                               {"bicubic", Interpolation::bicubic},
                                                               {"area", Interpolation::area}};
inline constexpr Named<Scalar> kScalarNames[] = {{"float32", Scalar::float32}, {"bfloat16", Scalar::bfloat16},
                                                 {"float16", Scalar::float16}, {"float64", Scalar::float64},
                                                 {"uint8", Scalar::uint8},     {"int8", Scalar::int8},
                                                 {"int16", Scalar::int16},     {"int32", Scalar::int32},
                                                 {"int64", Scalar::int64},     {"bool", Scalar::boolean}};

}  // namespace names

inline constexpr Names<Prior> kPriors = names::kPriorNames;
inline constexpr Names<Interpolation> kInterpolations = names::kInterpolationNames;
inline constexpr Names<Scalar> kDtypes = {names::kScalarNames, 4};  // of logits
inline constexpr Names<Scalar> kStrengthDtypes = names::kScalarNames;

template <class Enum>
std::optional<Enum> find(Names<Enum> names, std::string_view text) {
  for (const auto& [name, value] : names)
    if (text == name) return value;
  return std::nullopt;
}

template <class Enum>
constexpr const char* name_of(Names<Enum> names, Enum wanted) {
  for (const auto& [name, value] : names)
    if (value == wanted) return name;
  throw std::logic_error("a value without a name");
}

// As Python's repr writes an ASCII string.
std::string repr(std::string_view text);

// "prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'x'"
template <class Enum>
std::string must_be_one_of(std::string_view argument, Names<Enum> names, std::string_view given) {
  std::string text(argument);
  text += " must be one of ";
  for (const auto& [name, value] : names) text += repr(name) + ", ";
  return text + "got " + repr(given);
}

// The value of a name. Throws std::invalid_argument where it has none.
template <class Enum>
Enum parse(std::string_view argument, Names<Enum> names, std::string_view given) {
  if (const auto found = find(names, given)) return *found;
  throw std::invalid_argument(must_be_one_of(argument, names, given));
}

// The strengths of the guided operators, in the order of their arguments. An operator takes the first so many.
inline constexpr size_t kMostStrengths = 3;
inline constexpr const char* kStrengths[kMostStrengths] = {"beta", "cfg", "prev_cfg"};

struct GuidedOperator {
  const char* name;
  size_t strengths;
  bool is_cfg() const { return strengths > 1; }
};
inline constexpr GuidedOperator kGuidedOperators[] = {{"guided_logits", 1}, {"guided_logits_cfg", kMostStrengths}};

// One overload of a guided operator. Bit s of `floats` is set where strength s is a float instead of a tensor.
struct GuidedOverload {
  GuidedOperator op;
  unsigned floats;
  bool is_out;  // writes into an argument `out`
  bool is_float(size_t strength) const { return (floats >> strength & 1) != 0; }
  // Empty where all strengths are tensors, "float" where all are floats, else "float" and their names. The name of an
  // overload that writes into `out` ends in "out".
  std::string name() const;
};

}  // namespace ssg

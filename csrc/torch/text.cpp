#include "text.h"

#include <cmath>

#include "names.h"
#include "tensor.h"

namespace ssg::ops {

std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  std::ostringstream text;
  text << value;
  return text.str();
}

std::string dtype_text(ScalarType type) {
  if (const auto scalar = scalar_of(type)) return std::string("torch.") + name_of(kStrengthDtypes, *scalar);
  switch (type) {
    case ScalarType::ComplexHalf: return "torch.complex32";
    case ScalarType::ComplexFloat: return "torch.complex64";
    case ScalarType::ComplexDouble: return "torch.complex128";
    default: return "dtype " + std::to_string(static_cast<int>(type));
  }
}

}  // namespace ssg::ops

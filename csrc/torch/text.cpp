#include "text.h"

#include <cmath>

#include "names.h"
#include "tensor.h"

namespace ssg::ops {

std::string wide_text(Wide value) {
  std::string text;
  do {
    text.insert(text.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
    value /= 10;
  } while (value > 0);
  return text;
}

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
    default: break;
  }
  // Python writes the other names in lower case: Float8_e4m3fn is torch.float8_e4m3fn.
  std::string name = torch::headeronly::toString(type);
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return "torch." + name;
}

}  // namespace ssg::ops

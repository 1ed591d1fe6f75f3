#include "names.h"

namespace ssg {

std::string repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string written(1, quote);
  for (const char c : text) {
    constexpr char kHex[] = "0123456789abcdef";
    const auto code = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      written += '\\';
      written += c;
    } else if (c == '\n') {
      written += "\\n";
    } else if (c == '\r') {
      written += "\\r";
    } else if (c == '\t') {
      written += "\\t";
    } else if (code < 0x20 || code == 0x7f) {
      written += "\\x";
      written += kHex[code >> 4];
      written += kHex[code & 15];
    } else {
      written += c;  // beyond ASCII: as given, which Python does for what it can print
    }
  }
  return written + quote;
}

std::string GuidedOverload::name() const {
  std::string name = floats != 0 ? "float" : "";
  const auto append = [&name](const char* part) {
    if (!name.empty()) name += '_';
    name += part;
  };
  if (floats + 1 != 1u << op.strengths)
    for (size_t s = 0; s < op.strengths; ++s)
      if (is_float(s)) append(kStrengths[s]);
  if (is_out) append("out");
  return name;
}

}  // namespace ssg

#include "checks.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "text.h"

namespace ssg::ops::checks {
namespace {

void output(const char* name, const Operand& out, const Operand& logits, int64_t batch);
void three_dimensional(const char* name, const char* argument, const Operand& x, const char* tokens);
std::string dtype_choices(Names<Scalar> dtypes);
void floating(const char* name, const char* argument, const Operand& x);
void sizes(const char* name, const Ints& size, const Ints& prev_size, StepKey& key);
void tokens(const char* name, const char* argument, const Operand& x, const char* tokens, const char* size_argument,
            const Grid& size);
void countable(const char* name, const Grid& size);
void options(const char* name, const Text& prior, const Text& interpolation, StepKey& key);
template <class Enum>
Enum one_of(const char* name, const char* argument, std::string_view value, Names<Enum> choices);
bool repeats(const Operand& x);
bool overlap(const Operand& a, const Operand& b, int64_t first_of_b);

}  // namespace

StepKey guided(const GuidedArguments& given) {
  const char* name = given.name();
  const Operand& logits = given.logits;
  const Operand& prev_logits = given.prev_logits;
  StepKey key;
  three_dimensional(name, "logits", logits, "L");
  three_dimensional(name, "prev_logits", prev_logits, "L'");
  floating(name, "logits", logits);
  if (prev_logits.dtype != logits.dtype)
    fail(name, ": prev_logits must have the dtype of logits, ", dtype_text(logits.dtype), ", got ",
         dtype_text(prev_logits.dtype));
  if (!(prev_logits.device == logits.device))
    fail(name, ": prev_logits must be on the device of logits, ", logits.device.text(), ", got ",
         prev_logits.device.text());
  sizes(name, given.size, given.prev_size, key);
  tokens(name, "logits", logits, "L", "size", key.size);
  tokens(name, "prev_logits", prev_logits, "L'", "prev_size", key.prev_size);
  if (prev_logits.size[0] != logits.size[0])
    fail(name, ": prev_logits must have the batch of logits, ", logits.size[0], ", got ", prev_logits.size[0]);
  if (prev_logits.size[2] != logits.size[2])
    fail(name, ": prev_logits must have the vocabulary of logits, ", logits.size[2], ", got ", prev_logits.size[2]);
  options(name, given.prior, given.interpolation, key);
  if (logits.size[0] % given.sources() != 0)
    fail(name, ": logits must hold an even batch, conditional half first, got ", logits.size[0]);
  for (size_t s = 0; s < given.overload.op.strengths; ++s)
    strength(name, kStrengths[s], given.strengths[s], given.batch(), logits.device);
  if (given.out) output(name, *given.out, logits, given.batch());
  key.rescale = given.rescale;
  return key;
}

StepKey prior_linear(const PriorLinearArguments& given) {
  const char* name = "_prior_linear";
  StepKey key;
  three_dimensional(name, "x", given.x, "L");
  floating(name, "x", given.x);
  sizes(name, given.size, given.prev_size, key);
  if (given.transpose)
    tokens(name, "x", given.x, "L", "size", key.size);
  else
    tokens(name, "x", given.x, "L", "prev_size", key.prev_size);
  countable(name, key.size);
  options(name, given.prior, given.interpolation, key);
  strength(name, "scale", given.scale, given.x.size[0], given.x.device);
  key.rescale = given.rescale;
  key.transposed = given.transpose;
  return key;
}

void sample(const char* name, const SampleArguments& given) {
  const Operand& logits = given.logits;
  const Operand& uniform = given.uniform;
  three_dimensional(name, "logits", logits, "L");
  floating(name, "logits", logits);
  const int64_t vocabulary = logits.size[2];
  if (vocabulary < 1) fail(name, ": logits must have at least one vocabulary column, got 0");
  if (vocabulary > int64_t{1} << 23)  // sums of weights must stay below 2^62
    fail(name, ": logits must have at most 8388608 vocabulary columns, got ", vocabulary);
  if (uniform.dim != 2 || uniform.size[0] != logits.size[0] || uniform.size[1] != logits.size[1])
    fail(name, ": uniform must have shape (B, L) = (", logits.size[0], ", ", logits.size[1], "), got ",
         uniform.shape());
  if (uniform.dtype != ScalarType::Float && uniform.dtype != ScalarType::Double)
    fail(name, ": uniform must be float32 or float64, got ", dtype_text(uniform.dtype));
  if (!(uniform.device == logits.device))
    fail(name, ": uniform must be on the device of logits, ", logits.device.text(), ", got ", uniform.device.text());
  const auto top_k = given.top_k.operand() == nullptr ? static_cast<int64_t>(given.top_k.strength().value) : 0;
  if (top_k < 0 || top_k > vocabulary) fail(name, ": top_k must be from 0 to V = ", vocabulary, ", got ", top_k);
  strength(name, "top_k", given.top_k, logits.size[0], logits.device);
  const double top_p = given.top_p.operand() == nullptr ? given.top_p.strength().value : 0.0;
  if (!(top_p >= 0 && top_p <= 1)) fail(name, ": top_p must be from 0 to 1, got ", number_text(top_p));
  strength(name, "top_p", given.top_p, logits.size[0], logits.device);
  strength(name, "scale", given.scale, logits.size[0], logits.device);
}

void output_memory(const char* name, const Operand& out, const Operand& logits, const Operand& prev_logits) {
  if (repeats(out)) fail(name, ": out must not share memory between its elements");
  if (overlap(out, prev_logits, 0)) fail(name, ": out must not overlap prev_logits");
  bool is_itself = out.tensor.const_data_ptr() == logits.tensor.const_data_ptr();
  for (int d = 0; d < 3; ++d) is_itself = is_itself && (out.size[d] <= 1 || out.stride[d] == logits.stride[d]);
  if (overlap(out, logits, is_itself ? out.size[0] : 0)) fail(name, ": out must be logits itself or not overlap it");
}

void strength(const char* name, const char* argument, const StrengthArgument& value, int64_t batch,
              const Device& device) {
  const Operand* x = value.operand();
  if (x == nullptr) return;
  if (x->dim > 1 || (x->dim == 1 && x->size[0] != batch))
    fail(name, ": ", argument, " must be a float or a tensor of shape () or (", batch, ",), got shape ", x->shape());
  if (x->dtype == ScalarType::ComplexHalf || x->dtype == ScalarType::ComplexFloat ||
      x->dtype == ScalarType::ComplexDouble)
    fail(name, ": ", argument, " must be a real tensor, got ", dtype_text(x->dtype));
  if (!scalar_of(x->dtype))
    fail(name, ": ", argument, " must be a float or a tensor of ", dtype_choices(kStrengthDtypes), ", got ",
         dtype_text(x->dtype));
  if (!(x->device == device))
    fail(name, ": ", argument, " must be on the device of logits, ", device.text(), ", got ", x->device.text());
}

namespace {

void output(const char* name, const Operand& out, const Operand& logits, int64_t batch) {
  const std::array<int64_t, 3> shape = {batch, logits.size[1], logits.size[2]};
  const bool fits = out.dim == 3 && std::equal(shape.begin(), shape.end(), out.size) && out.dtype == logits.dtype &&
                    out.device == logits.device && (out.stride[2] == 1 || out.size[2] <= 1);
  if (!fits)
    fail(name, ": out must be a ", shape_text(shape), " ", dtype_text(logits.dtype), " tensor on ",
         logits.device.text(), " with a contiguous vocabulary, got ", out.shape(), " ", dtype_text(out.dtype), " on ",
         out.device.text());
}

void three_dimensional(const char* name, const char* argument, const Operand& x, const char* tokens) {
  if (x.dim != 3) fail(name, ": ", argument, " must be a 3-D tensor (B, ", tokens, ", V), got ", x.dim, "-D");
}

// "float32, bfloat16, float16 or float64"
std::string dtype_choices(Names<Scalar> dtypes) {
  std::ostringstream text;
  size_t written = 0;
  for (const auto& [name, scalar] : dtypes) {
    if (written > 0) text << (written + 1 == dtypes.count ? " or " : ", ");
    text << name;
    ++written;
  }
  return text.str();
}

void floating(const char* name, const char* argument, const Operand& x) {
  const auto scalar = scalar_of(x.dtype);
  const auto is_given = [&](const Named<Scalar>& dtype) { return scalar == dtype.value; };
  if (!std::any_of(kDtypes.begin(), kDtypes.end(), is_given))
    fail(name, ": ", argument, " must be ", dtype_choices(kDtypes), ", got ", dtype_text(x.dtype));
}

void sizes(const char* name, const Ints& size, const Ints& prev_size, StepKey& key) {
  const auto grid = [name](const char* argument, const Ints& value) -> Grid {
    if (value.size() != 2 || value[0] < 1 || value[1] < 1)
      fail(name, ": ", argument, " must be two positive integers, got ", shape_text(value));
    return {value[0], value[1]};
  };
  key.size = grid("size", size);
  key.prev_size = grid("prev_size", prev_size);
  if (key.prev_size.h > key.size.h || key.prev_size.w > key.size.w)
    fail(name, ": prev_size must not exceed size, got prev_size ", shape_text(prev_size), " and size ",
         shape_text(size));
}

void tokens(const char* name, const char* argument, const Operand& x, const char* tokens, const char* size_argument,
            const Grid& size) {
  if (x.size[1] != size.tokens())
    fail(name, ": ", argument, " must have ", tokens, " = ", size.h, "*", size.w, " = ", wide_text(size.tokens()),
         " tokens for ", size_argument, " (", size.h, ", ", size.w, "), got ", x.size[1]);
}

void countable(const char* name, const Grid& size) {
  if (size.tokens() > std::numeric_limits<int64_t>::max())
    fail(name, ": size must have fewer than 2**63 tokens, got ", size.h, "*", size.w, " = ", wide_text(size.tokens()));
}

void options(const char* name, const Text& prior, const Text& interpolation, StepKey& key) {
  key.prior = one_of(name, "prior", prior.view(), kPriors);
  key.interpolation = one_of(name, "interpolation", interpolation.view(), kInterpolations);
}

template <class Enum>
Enum one_of(const char* name, const char* argument, std::string_view value, Names<Enum> choices) {
  if (const auto found = find(choices, value)) return *found;
  fail(name, ": ", must_be_one_of(argument, choices, value));
}

// Where the vocabulary rows of (B, T, V) logits lie, of the samples from `first` on.
class Rows {
 public:
  struct Row {
    uintptr_t begin;
    uintptr_t end;
    int owner;
    bool operator<(const Row& other) const { return begin < other.begin; }
  };

  // x must not be empty.
  Rows(const Operand& x, int64_t first)
      : batch_(x.size[0] - first),
        tokens_(x.size[1]),
        batch_bytes_(x.stride[0] * item_bytes(*scalar_of(x.dtype))),
        token_bytes_(x.stride[1] * item_bytes(*scalar_of(x.dtype))),
        row_bytes_(((x.size[2] - 1) * x.stride[2] + 1) * item_bytes(*scalar_of(x.dtype))),
        base_(reinterpret_cast<uintptr_t>(x.tensor.const_data_ptr()) + static_cast<uintptr_t>(first * batch_bytes_)) {}

  uintptr_t begin() const { return base_; }
  uintptr_t end() const {
    return base_ + static_cast<uintptr_t>((batch_ - 1) * batch_bytes_ + (tokens_ - 1) * token_bytes_ + row_bytes_);
  }

  // Whether the strides alone show that no two rows share memory.
  bool are_apart() const {
    return (tokens_ == 1 || token_bytes_ >= row_bytes_) &&
           (batch_ == 1 || batch_bytes_ >= (tokens_ - 1) * token_bytes_ + row_bytes_);
  }

  void append_to(std::vector<Row>& rows, int owner) const {
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < tokens_; ++t) {
        const uintptr_t begin = base_ + static_cast<uintptr_t>(b * batch_bytes_ + t * token_bytes_);
        rows.push_back({begin, begin + static_cast<uintptr_t>(row_bytes_), owner});
      }
  }

 private:
  int64_t batch_;
  int64_t tokens_;
  int64_t batch_bytes_;
  int64_t token_bytes_;
  int64_t row_bytes_;
  uintptr_t base_;
};

// Whether two rows share memory, as those of an expanded tensor do.
bool repeats(const Operand& x) {
  if (x.empty()) return false;
  const Rows of_x(x, 0);
  if (of_x.are_apart()) return false;
  std::vector<Rows::Row> rows;
  of_x.append_to(rows, 0);
  std::sort(rows.begin(), rows.end());
  for (size_t r = 1; r < rows.size(); ++r)
    if (rows[r].begin < rows[r - 1].end) return true;
  return false;
}

// Whether two tensors share memory, b from a sample on; rows of one that lie between rows of the other do not.
bool overlap(const Operand& a, const Operand& b, int64_t first_of_b) {
  if (a.empty() || b.empty() || first_of_b == b.size[0]) return false;
  const Rows of_a(a, 0);
  const Rows of_b(b, first_of_b);
  if (of_a.end() <= of_b.begin() || of_b.end() <= of_a.begin()) return false;
  std::vector<Rows::Row> rows;
  of_a.append_to(rows, 0);
  of_b.append_to(rows, 1);
  std::sort(rows.begin(), rows.end());
  uintptr_t ends[2] = {0, 0};
  for (const Rows::Row& row : rows) {
    if (row.begin < ends[1 - row.owner]) return true;
    ends[row.owner] = std::max(ends[row.owner], row.end);
  }
  return false;
}

}  // namespace
}  // namespace ssg::ops::checks

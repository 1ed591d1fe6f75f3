// The only file that knows torch: it checks the calls, allocates, and registers the CPU kernels on LibTorch's stable
// ABI. The schemas are defined in ssg_kernels/_schema.py; the texts of the errors are those of ssg_kernels/_checks.py.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/memory.h"

namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::from;

// Arguments off the stack of a boxed call. Torch's own conversions to std::vector and std::string would cost a small
// call a tenth of its time.

class Ints {
 public:
  explicit Ints(StableIValue value) {
    const auto list = torch::stable::detail::to<StableListHandle>(value);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_list_size(list, &size_));
    for (size_t i = 0; i < std::min(size_, kept_); ++i) {
      StableIValue item = 0;
      STABLE_TORCH_ERROR_CODE_CHECK(torch_list_get_item(list, i, &item));
      values_[i] = torch::stable::detail::to<int64_t>(item);
    }
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_list(list));
  }
  size_t size() const { return size_; }
  int64_t operator[](size_t i) const { return i < kept_ ? values_[i] : 0; }
  std::vector<int64_t> vector() const { return {values_, values_ + std::min(size_, kept_)}; }

 private:
  static constexpr size_t kept_ = 4;  // two, and what an error message shows of more
  size_t size_ = 0;
  int64_t values_[kept_] = {};
};

class Text {
 public:
  explicit Text(StableIValue value) : handle_(torch::stable::detail::to<StringHandle>(value)) {}
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;
  ~Text() { torch_delete_string(handle_); }
  std::string_view view() const {
    const char* data = nullptr;
    size_t length = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle_, &data));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle_, &length));
    return {data, length};
  }
  std::string string() const { return std::string(view()); }

 private:
  StringHandle handle_;
};

// Errors

template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < sizes.size(); ++i) text << (i == 0 ? "" : ", ") << sizes[i];
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

std::string dtype_text(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "torch.uint8";
    case ScalarType::Char: return "torch.int8";
    case ScalarType::Short: return "torch.int16";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::ComplexHalf: return "torch.complex32";
    case ScalarType::ComplexFloat: return "torch.complex64";
    case ScalarType::ComplexDouble: return "torch.complex128";
    case ScalarType::Bool: return "torch.bool";
    case ScalarType::BFloat16: return "torch.bfloat16";
    default: return "dtype " + std::to_string(static_cast<int>(type));
  }
}

int32_t device_type_of(const Tensor& x) {
  int32_t type = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &type));
  return type;
}

std::string device_text(const Tensor& x) {
  const int32_t type = device_type_of(x);
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  int32_t index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &index));
  const std::string name = type == aoti_torch_device_type_cuda()   ? "cuda"
                           : type == aoti_torch_device_type_meta() ? "meta"
                                                                   : "device type " + std::to_string(type);
  return index < 0 ? name : name + ":" + std::to_string(index);
}

bool on_cpu(const Tensor& x) { return device_type_of(x) == aoti_torch_device_type_cpu(); }

// A (B, L, V) tensor's facts, asked for once.
struct Facts {
  ScalarType dtype;
  int64_t dim;
  int64_t size[3];
  int64_t stride[3];

  explicit Facts(const Tensor& x) : dtype(x.scalar_type()), dim(x.dim()) {
    if (dim != 3) return;
    const auto sizes = x.sizes();
    const auto strides = x.strides();
    for (int d = 0; d < 3; ++d) {
      size[d] = sizes[d];
      stride[d] = strides[d];
    }
  }
};

ssg::cpu::Scalar scalar_of(const char* name, const char* argument, ScalarType type) {
  switch (type) {
    case ScalarType::Float: return ssg::cpu::Scalar::float32;
    case ScalarType::Double: return ssg::cpu::Scalar::float64;
    case ScalarType::BFloat16: return ssg::cpu::Scalar::bfloat16;
    case ScalarType::Half: return ssg::cpu::Scalar::float16;
    default: fail(name, ": ", argument, " must be float32, bfloat16, float16 or float64, got ", dtype_text(type));
  }
}

ssg::Grid grid_of(const char* name, const char* argument, const Ints& size) {
  if (size.size() != 2 || size[0] <= 0 || size[1] <= 0)
    fail(name, ": ", argument, " must be two positive integers, got ", shape_text(size));
  return {size[0], size[1]};
}

template <class Value, size_t N>
Value choice_of(const char* name, const char* argument, std::string_view given,
                const std::array<const char*, N>& names) {
  for (size_t i = 0; i < N; ++i)
    if (given == names[i]) return static_cast<Value>(i);
  std::ostringstream expected;
  for (size_t i = 0; i < N; ++i) expected << (i == 0 ? "'" : ", '") << names[i] << "'";
  fail(name, ": ", argument, " must be one of ", expected.str(), ", got '", given, "'");
}

ssg::Prior prior_of(const char* name, const Text& prior) {
  return choice_of<ssg::Prior>(name, "prior", prior.view(), std::array{"dse", "dse_zero_pad", "spatial"});
}

ssg::Interpolation interpolation_of(const char* name, const Text& interpolation) {
  return choice_of<ssg::Interpolation>(name, "interpolation", interpolation.view(),
                                       std::array{"nearest", "bilinear", "bicubic", "area"});
}

void check_tokens(const char* name, const char* argument, const char* tokens, const char* size_name, ssg::Grid grid,
                  int64_t given) {
  if (given != grid.tokens())
    fail(name, ": ", argument, " must have ", tokens, " = ", grid.h, "*", grid.w, " = ", grid.tokens(), " tokens for ",
         size_name, " (", grid.h, ", ", grid.w, "), got ", given);
}

// Strengths: a float, or a tensor of shape () or (B,)

class Strength {
 public:
  Strength(const char*, const char*, double value, int64_t) : value_(value) {}
  Strength(const char* name, const char* argument, const Tensor& tensor, int64_t batch) {
    const int64_t dim = tensor.dim();
    if (dim > 1 || (dim == 1 && tensor.size(0) != batch))
      fail(name, ": ", argument, " must be a float or a tensor of shape () or (", batch, ",), got shape ",
           shape_text(tensor.sizes()));
    const ScalarType type = tensor.scalar_type();
    if (type == ScalarType::ComplexHalf || type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble)
      fail(name, ": ", argument, " must be a real tensor, got ", dtype_text(type));
    if (!on_cpu(tensor)) fail(name, ": ", argument, " must be on the device of logits, cpu, got ", device_text(tensor));
    if (dim == 0) {
      value_ = at(tensor, type, 0);
    } else {
      values_.reserve(static_cast<size_t>(batch));
      for (int64_t b = 0; b < batch; ++b) values_.push_back(at(tensor, type, b * tensor.stride(0)));
    }
  }

  double operator[](int64_t b) const { return values_.empty() ? value_ : values_[static_cast<size_t>(b)]; }

 private:
  template <class T>
  static double read(const Tensor& tensor, int64_t offset) {
    return static_cast<double>(static_cast<const T*>(tensor.const_data_ptr())[offset]);
  }

  static double at(const Tensor& tensor, ScalarType type, int64_t offset) {
    switch (type) {
      case ScalarType::Float: return read<float>(tensor, offset);
      case ScalarType::Double: return read<double>(tensor, offset);
      case ScalarType::Half: return static_cast<float>(static_cast<const Half*>(tensor.const_data_ptr())[offset]);
      case ScalarType::BFloat16:
        return static_cast<float>(static_cast<const BFloat16*>(tensor.const_data_ptr())[offset]);
      case ScalarType::Byte: return read<uint8_t>(tensor, offset);
      case ScalarType::Char: return read<int8_t>(tensor, offset);
      case ScalarType::Short: return read<int16_t>(tensor, offset);
      case ScalarType::Int: return read<int32_t>(tensor, offset);
      case ScalarType::Long: return read<int64_t>(tensor, offset);
      case ScalarType::Bool: return read<bool>(tensor, offset);
      default: fail("a strength of ", dtype_text(type), " cannot be read");
    }
  }

  double value_ = 0.0;
  std::vector<double> values_;
};

// Memory

using Shape = std::array<int64_t, 3>;

Tensor empty(const Shape& sizes, ScalarType dtype) {
  const Shape strides = {std::max<int64_t>(sizes[1], 1) * std::max<int64_t>(sizes[2], 1),
                         std::max<int64_t>(sizes[2], 1), 1};
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(3, sizes.data(), strides.data(),
                                                         torch::stable::detail::to<int32_t>(from(dtype)),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

int64_t item_bytes(ScalarType dtype) { return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2; }

// Where the vocabulary rows of some samples lie; rows of one tensor between the rows of another do not overlap it.
struct Rows {
  uintptr_t base = 0;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t batch_bytes = 0;
  int64_t token_bytes = 0;
  int64_t row_bytes = 0;

  Rows(const Tensor& x, const Facts& facts, int64_t first, int64_t batch)
      : batch(facts.size[2] == 0 ? 0 : batch),
        tokens(facts.size[1]),
        batch_bytes(facts.stride[0] * item_bytes(facts.dtype)),
        token_bytes(facts.stride[1] * item_bytes(facts.dtype)),
        row_bytes(((facts.size[2] - 1) * facts.stride[2] + 1) * item_bytes(facts.dtype)) {
    base = reinterpret_cast<uintptr_t>(x.const_data_ptr()) + static_cast<uintptr_t>(first * batch_bytes);
  }

  uintptr_t end() const {
    return base + static_cast<uintptr_t>((batch - 1) * batch_bytes + (tokens - 1) * token_bytes + row_bytes);
  }

  void append_to(std::vector<std::array<uintptr_t, 3>>& rows, uintptr_t owner) const {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t t = 0; t < tokens; ++t) {
        const uintptr_t begin = base + static_cast<uintptr_t>(b * batch_bytes + t * token_bytes);
        rows.push_back({begin, begin + static_cast<uintptr_t>(row_bytes), owner});
      }
  }

  // Whether two of its own rows share memory, as those of an expanded tensor do.
  bool repeats() const {
    if (batch == 0) return false;
    if ((tokens == 1 || token_bytes >= row_bytes) &&
        (batch == 1 || batch_bytes >= (tokens - 1) * token_bytes + row_bytes))
      return false;
    std::vector<std::array<uintptr_t, 3>> rows;
    append_to(rows, 0);
    std::sort(rows.begin(), rows.end());
    for (size_t r = 1; r < rows.size(); ++r)
      if (rows[r][0] < rows[r - 1][1]) return true;
    return false;
  }

  bool overlaps(const Rows& other) const {
    if (batch == 0 || other.batch == 0 || end() <= other.base || other.end() <= base) return false;
    std::vector<std::array<uintptr_t, 3>> rows;
    append_to(rows, 0);
    other.append_to(rows, 1);
    std::sort(rows.begin(), rows.end());
    uintptr_t ends[2] = {0, 0};
    for (const auto& [begin, end, owner] : rows) {
      if (begin < ends[1 - owner]) return true;
      ends[owner] = std::max(ends[owner], end);
    }
    return false;
  }
};

// The tensor itself where the kernel can read it in place, a copy of it where its vocabulary is strided.
Tensor readable(const Tensor& x, Facts& facts) {
  if (facts.stride[2] == 1 || facts.size[2] <= 1 || facts.size[0] == 0) return x;
  Tensor copy = torch::stable::contiguous(x);
  facts = Facts(copy);
  return copy;
}

ssg::cpu::Logits logits_at(const Tensor& x, const Facts& facts, int64_t first) {
  const auto* data = static_cast<const char*>(x.const_data_ptr());
  return {data + first * facts.stride[0] * item_bytes(facts.dtype), facts.stride[0], facts.stride[1]};
}

// Backends

// Whether SSG_KERNELS_BACKEND sends the call to the reference; raises where it names a backend that cannot serve it.
bool asks_for_reference() {
  const char* backend = std::getenv("SSG_KERNELS_BACKEND");
  if (backend == nullptr || *backend == '\0') return false;
  const std::string name = backend;
  if (name == "cpu") return false;
  if (name == "reference") return true;
  if (name == "triton" || name == "cuda") fail("SSG_KERNELS_BACKEND=", name, " cannot serve tensors on cpu");
  fail("SSG_KERNELS_BACKEND must be one of reference, cpu, triton, cuda, got '", name, "'");
}

template <class... Args>
Tensor call(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// A tensor of shape (B,), for the reference.
Tensor as_tensor(const Strength& strength, int64_t batch) {
  AtenTensorHandle handle = nullptr;
  const int64_t stride = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &batch, &stride, aoti_torch_dtype_float64(),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor tensor(handle);
  for (int64_t b = 0; b < batch; ++b) static_cast<double*>(tensor.mutable_data_ptr())[b] = strength[b];
  return tensor;
}

// [batch][2 * sources], on the stack for the usual batches.
class Weights {
 public:
  explicit Weights(int64_t count) {
    if (static_cast<size_t>(count) > few_.size()) many_.resize(static_cast<size_t>(count));
  }
  double* data() { return many_.empty() ? few_.data() : many_.data(); }

 private:
  std::array<double, 64> few_;
  std::vector<double> many_;
};

void copy_into(const Tensor& out, const Tensor& result) { torch::stable::copy_(const_cast<Tensor&>(out), result); }

void run_kernel(const ssg::StepKey& key, const ssg::cpu::Step& step) {
  ssg::cpu::run(key, step, torch::stable::get_num_threads(),
                [](int64_t tasks, int64_t grain, ssg::cpu::Body body, const void* context) {
                  torch::stable::parallel_for(0, tasks, grain,
                                              [&](int64_t begin, int64_t end) { body(context, begin, end); });
                });
}

// The guided operators

struct Options {
  Ints size;
  Ints prev_size;
  Text prior;
  Text interpolation;
  bool rescale;
};

// `strengths`: beta alone, or beta, cfg and prev_cfg with the two halves of a doubled batch.
template <class... Strengths>
Tensor guide(const char* name, Tensor logits, Tensor prev_logits, const Options& options, const Tensor* given_out,
             const Strengths&... strengths) {
  constexpr bool is_cfg = sizeof...(Strengths) == 3;
  Facts facts(logits);
  Facts prev(prev_logits);
  if (facts.dim != 3) fail(name, ": logits must be a 3-D tensor (B, L, V), got ", facts.dim, "-D");
  if (prev.dim != 3) fail(name, ": prev_logits must be a 3-D tensor (B, L', V), got ", prev.dim, "-D");
  ssg::cpu::Step step;
  step.scalar = scalar_of(name, "logits", facts.dtype);
  if (prev.dtype != facts.dtype)
    fail(name, ": prev_logits must have the dtype of logits, ", dtype_text(facts.dtype), ", got ",
         dtype_text(prev.dtype));
  if (!on_cpu(prev_logits) || !on_cpu(logits))
    fail(name, ": prev_logits must be on the device of logits, ", device_text(logits), ", got ",
         device_text(prev_logits));
  ssg::StepKey key;
  key.size = grid_of(name, "size", options.size);
  key.prev_size = grid_of(name, "prev_size", options.prev_size);
  if (key.prev_size.h > key.size.h || key.prev_size.w > key.size.w)
    fail(name, ": prev_size must not exceed size, got prev_size ", shape_text(options.prev_size), " and size ",
         shape_text(options.size));
  check_tokens(name, "logits", "L", "size", key.size, facts.size[1]);
  check_tokens(name, "prev_logits", "L'", "prev_size", key.prev_size, prev.size[1]);
  if (prev.size[0] != facts.size[0])
    fail(name, ": prev_logits must have the batch of logits, ", facts.size[0], ", got ", prev.size[0]);
  if (prev.size[2] != facts.size[2])
    fail(name, ": prev_logits must have the vocabulary of logits, ", facts.size[2], ", got ", prev.size[2]);
  key.prior = prior_of(name, options.prior);
  key.interpolation = interpolation_of(name, options.interpolation);
  key.rescale = options.rescale;
  if (is_cfg && facts.size[0] % 2 != 0)
    fail(name, ": logits must hold an even batch, conditional half first, got ", facts.size[0]);
  step.sources = is_cfg ? 2 : 1;
  step.batch = facts.size[0] / step.sources;
  step.vocabulary = facts.size[2];

  constexpr std::array<const char*, 3> names = {"beta", "cfg", "prev_cfg"};
  size_t next = 0;
  const std::array<Strength, sizeof...(Strengths)> strength = {Strength(name, names[next++], strengths, step.batch)...};

  const Shape shape = {step.batch, facts.size[1], step.vocabulary};
  if (given_out != nullptr) {
    const Facts out(*given_out);
    const bool fits = out.dim == 3 && out.dtype == facts.dtype && on_cpu(*given_out) &&
                      std::equal(shape.begin(), shape.end(), out.size) && (out.stride[2] == 1 || out.size[2] <= 1);
    if (!fits)
      fail(name, ": out must be a ", shape_text(shape), " ", dtype_text(facts.dtype),
           " tensor on cpu with a contiguous vocabulary, got ", shape_text(given_out->sizes()), " ",
           dtype_text(out.dtype), " on ", device_text(*given_out));
    const Rows written(*given_out, out, 0, step.batch);
    if (written.repeats()) fail(name, ": out must not share memory between its elements");
    if (written.overlaps(Rows(prev_logits, prev, 0, prev.size[0]))) fail(name, ": out must not overlap prev_logits");
    bool same = given_out->const_data_ptr() == logits.const_data_ptr();
    for (int d = 0; d < 3; ++d) same = same && (out.size[d] <= 1 || out.stride[d] == facts.stride[d]);
    const int64_t first_other = same ? step.batch : 0;
    if (written.overlaps(Rows(logits, facts, first_other, facts.size[0] - first_other)))
      fail(name, ": out must be logits itself or not overlap it");
  }

  if (asks_for_reference()) {
    Tensor result = logits;
    if constexpr (is_cfg)
      result = call("ssg::_reference_guided_logits_cfg", logits, prev_logits, options.size.vector(),
                    options.prev_size.vector(), as_tensor(strength[0], step.batch), as_tensor(strength[1], step.batch),
                    as_tensor(strength[2], step.batch), options.prior.string(), options.interpolation.string(),
                    options.rescale);
    else
      result = call("ssg::_reference_guided_logits", logits, prev_logits, options.size.vector(),
                    options.prev_size.vector(), as_tensor(strength[0], step.batch), options.prior.string(),
                    options.interpolation.string(), options.rescale);
    if (given_out == nullptr) return result;
    copy_into(*given_out, result);
    return *given_out;
  }

  logits = readable(logits, facts);
  prev_logits = readable(prev_logits, prev);
  Tensor out = given_out != nullptr ? *given_out : empty(shape, facts.dtype);
  const Facts out_facts(out);
  for (int64_t s = 0; s < step.sources; ++s) {
    step.current[s] = logits_at(logits, facts, s * step.batch);
    step.previous[s] = logits_at(prev_logits, prev, s * step.batch);
  }
  step.out = logits_at(out, out_facts, 0);
  if (given_out == nullptr)
    ssg::cpu::advise_huge_pages(out.mutable_data_ptr(),
                                step.batch * facts.size[1] * step.vocabulary * item_bytes(facts.dtype));

  // guided = (1 + beta) m - beta P m_prev, with m = (1 + t) cond - t uncond under cfg.
  Weights weights(2 * step.sources * step.batch);
  double* weight = weights.data();
  for (int64_t b = 0; b < step.batch; ++b) {
    const double beta = strength[0][b];
    if constexpr (is_cfg) {
      const double t = strength[1][b];
      const double prev_t = strength[2][b];
      for (double value : {(1 + beta) * (1 + t), -(1 + beta) * t, -beta * (1 + prev_t), beta * prev_t})
        *weight++ = value;
    } else {
      *weight++ = 1 + beta;
      *weight++ = -beta;
    }
  }
  step.weights = weights.data();
  run_kernel(key, step);
  return out;
}

template <class... Strengths, size_t... I>
std::tuple<Strengths...> strengths_from(const StableIValue* stack, std::index_sequence<I...>) {
  return {torch::stable::detail::to<Strengths>(stack[I])...};
}

// logits, prev_logits, size, prev_size, one or three strengths, prior, interpolation, rescale, and `out` where IsOut.
template <bool IsOut, class... Strengths>
void guided(StableIValue* stack, uint64_t, uint64_t) {
  constexpr size_t count = sizeof...(Strengths);
  const char* name = count == 3 ? "guided_logits_cfg" : "guided_logits";
  Tensor logits = torch::stable::detail::to<Tensor>(stack[0]);
  Tensor prev_logits = torch::stable::detail::to<Tensor>(stack[1]);
  const auto strengths = strengths_from<Strengths...>(stack + 4, std::index_sequence_for<Strengths...>{});
  const Options options{Ints(stack[2]), Ints(stack[3]), Text(stack[4 + count]), Text(stack[5 + count]),
                        torch::stable::detail::to<bool>(stack[6 + count])};
  std::optional<Tensor> out;
  if (IsOut) out = torch::stable::detail::to<Tensor>(stack[7 + count]);
  stack[0] = from(std::apply(
      [&](const auto&... values) {
        return guide(name, std::move(logits), std::move(prev_logits), options, out ? &*out : nullptr, values...);
      },
      strengths));
}

// scale * P x, or scale * P^T x

// x, scale, size, prev_size, prior, interpolation, rescale, transpose
void prior_linear(StableIValue* stack, uint64_t, uint64_t) {
  const char* name = "_prior_linear";
  Tensor x = torch::stable::detail::to<Tensor>(stack[0]);
  const Tensor scale = torch::stable::detail::to<Tensor>(stack[1]);
  const Ints size(stack[2]);
  const Ints prev_size(stack[3]);
  const Text prior(stack[4]);
  const Text interpolation(stack[5]);
  const bool rescale = torch::stable::detail::to<bool>(stack[6]);
  const bool transposed = torch::stable::detail::to<bool>(stack[7]);
  Facts facts(x);
  if (facts.dim != 3) fail(name, ": x must be a 3-D tensor (B, L, V), got ", facts.dim, "-D");
  ssg::cpu::Step step;
  step.scalar = scalar_of(name, "x", facts.dtype);
  ssg::StepKey key;
  key.size = grid_of(name, "size", size);
  key.prev_size = grid_of(name, "prev_size", prev_size);
  if (key.prev_size.h > key.size.h || key.prev_size.w > key.size.w)
    fail(name, ": prev_size must not exceed size, got prev_size ", shape_text(prev_size), " and size ",
         shape_text(size));
  check_tokens(name, "x", "L", transposed ? "size" : "prev_size", transposed ? key.size : key.prev_size, facts.size[1]);
  key.prior = prior_of(name, prior);
  key.interpolation = interpolation_of(name, interpolation);
  key.rescale = rescale;
  key.transposed = transposed;
  const Strength strength(name, "scale", scale, facts.size[0]);
  if (asks_for_reference()) {
    stack[0] = from(call("ssg::_reference_prior_linear", x, scale, size.vector(), prev_size.vector(), prior.string(),
                         interpolation.string(), rescale, transposed));
    return;
  }

  x = readable(x, facts);
  step.batch = facts.size[0];
  step.vocabulary = facts.size[2];
  step.previous[0] = logits_at(x, facts, 0);
  Tensor out = empty({step.batch, (transposed ? key.prev_size : key.size).tokens(), step.vocabulary}, facts.dtype);
  step.out = logits_at(out, Facts(out), 0);
  Weights weights(2 * step.batch);
  for (int64_t b = 0; b < step.batch; ++b) {
    weights.data()[2 * b] = 0.0;
    weights.data()[2 * b + 1] = strength[b];
  }
  step.weights = weights.data();
  run_kernel(key, step);
  stack[0] = from(out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssg, CPU, m) {
  m.impl("guided_logits", &guided<false, Tensor>);
  m.impl("guided_logits.out", &guided<true, Tensor>);
  m.impl("guided_logits.float", &guided<false, double>);
  m.impl("guided_logits.float_out", &guided<true, double>);

  m.impl("guided_logits_cfg", &guided<false, Tensor, Tensor, Tensor>);
  m.impl("guided_logits_cfg.out", &guided<true, Tensor, Tensor, Tensor>);
  m.impl("guided_logits_cfg.float", &guided<false, double, double, double>);
  m.impl("guided_logits_cfg.float_out", &guided<true, double, double, double>);
  m.impl("guided_logits_cfg.float_beta", &guided<false, double, Tensor, Tensor>);
  m.impl("guided_logits_cfg.float_beta_out", &guided<true, double, Tensor, Tensor>);
  m.impl("guided_logits_cfg.float_cfg", &guided<false, Tensor, double, Tensor>);
  m.impl("guided_logits_cfg.float_cfg_out", &guided<true, Tensor, double, Tensor>);
  m.impl("guided_logits_cfg.float_prev_cfg", &guided<false, Tensor, Tensor, double>);
  m.impl("guided_logits_cfg.float_prev_cfg_out", &guided<true, Tensor, Tensor, double>);
  m.impl("guided_logits_cfg.float_beta_cfg", &guided<false, double, double, Tensor>);
  m.impl("guided_logits_cfg.float_beta_cfg_out", &guided<true, double, double, Tensor>);
  m.impl("guided_logits_cfg.float_beta_prev_cfg", &guided<false, double, Tensor, double>);
  m.impl("guided_logits_cfg.float_beta_prev_cfg_out", &guided<true, double, Tensor, double>);
  m.impl("guided_logits_cfg.float_cfg_prev_cfg", &guided<false, Tensor, double, double>);
  m.impl("guided_logits_cfg.float_cfg_prev_cfg_out", &guided<true, Tensor, double, double>);

  m.impl("_prior_linear", &prior_linear);
}

// Importing the module registers the kernels; the one function says which of them this processor runs.
static PyObject* cpu_capability(PyObject*, PyObject*) { return PyUnicode_FromString(ssg::cpu::kernel().name); }

static PyMethodDef kMethods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "The instruction set of the CPU kernel that runs here."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }

// The only file that knows torch: it checks the calls, allocates, and registers the kernels on LibTorch's stable ABI.
// The schemas are defined in ssg_kernels/_schema.py; the texts of the errors are those of ssg_kernels/_checks.py.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
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
#include "cpu/sample.h"
#include "cuda/kernel.h"

#if defined(SSG_HAVE_CUDA)
#include <torch/csrc/stable/accelerator.h>

// Weak, so that the extension loads where torch has no CUDA; torch's header would need CUDA's to declare it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

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

// As Python's format with "g" writes it.
std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  std::ostringstream text;
  text << value;
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

int32_t device_index_of(const Tensor& x) {
  int32_t index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &index));
  return index;
}

std::string device_text(const Tensor& x) {
  const int32_t type = device_type_of(x);
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  const int32_t index = device_index_of(x);
  const std::string name = type == aoti_torch_device_type_cuda()   ? "cuda"
                           : type == aoti_torch_device_type_meta() ? "meta"
                                                                   : "device type " + std::to_string(type);
  return index < 0 ? name : name + ":" + std::to_string(index);
}

bool on_cpu(const Tensor& x) { return device_type_of(x) == aoti_torch_device_type_cpu(); }

bool on_device_of(const Tensor& x, const Tensor& other) {
  const int32_t type = device_type_of(x);
  return type == device_type_of(other) &&
         (type == aoti_torch_device_type_cpu() || device_index_of(x) == device_index_of(other));
}

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

ssg::Prior prior_of(const char* name, std::string_view prior) {
  return choice_of<ssg::Prior>(name, "prior", prior, std::array{"dse", "dse_zero_pad", "spatial"});
}

ssg::Interpolation interpolation_of(const char* name, std::string_view interpolation) {
  return choice_of<ssg::Interpolation>(name, "interpolation", interpolation,
                                       std::array{"nearest", "bilinear", "bicubic", "area"});
}

void check_tokens(const char* name, const char* argument, const char* tokens, const char* size_name, ssg::Grid grid,
                  int64_t given) {
  if (given != grid.tokens())
    fail(name, ": ", argument, " must have ", tokens, " = ", grid.h, "*", grid.w, " = ", grid.tokens(), " tokens for ",
         size_name, " (", grid.h, ", ", grid.w, "), got ", given);
}

// Strengths

#if defined(SSG_HAVE_CUDA)
ssg::cuda::Scalar strength_scalar(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return ssg::cuda::Scalar::float32;
    case ScalarType::Double: return ssg::cuda::Scalar::float64;
    case ScalarType::BFloat16: return ssg::cuda::Scalar::bfloat16;
    case ScalarType::Half: return ssg::cuda::Scalar::float16;
    case ScalarType::Byte: return ssg::cuda::Scalar::uint8;
    case ScalarType::Char: return ssg::cuda::Scalar::int8;
    case ScalarType::Short: return ssg::cuda::Scalar::int16;
    case ScalarType::Int: return ssg::cuda::Scalar::int32;
    case ScalarType::Long: return ssg::cuda::Scalar::int64;
    case ScalarType::Bool: return ssg::cuda::Scalar::boolean;
    default: fail("a strength of ", dtype_text(type), " cannot be read");
  }
}
#endif

// Element i of an array on the CPU.
double number_at(const void* data, ScalarType type, int64_t i) {
  const auto read = [&](auto zero) { return static_cast<double>(static_cast<const decltype(zero)*>(data)[i]); };
  switch (type) {
    case ScalarType::Float: return read(float{});
    case ScalarType::Double: return read(double{});
    case ScalarType::Half: return static_cast<float>(static_cast<const Half*>(data)[i]);
    case ScalarType::BFloat16: return static_cast<float>(static_cast<const BFloat16*>(data)[i]);
    case ScalarType::Byte: return read(uint8_t{});
    case ScalarType::Char: return read(int8_t{});
    case ScalarType::Short: return read(int16_t{});
    case ScalarType::Int: return read(int32_t{});
    case ScalarType::Long: return read(int64_t{});
    case ScalarType::Bool: return read(bool{});
    default: fail("a strength of ", dtype_text(type), " cannot be read");
  }
}

// A float, or a tensor of shape () or (B,) on the device of the logits.
class Strength {
 public:
  Strength(const char*, const char*, double value, int64_t, const Tensor&) : value_(value) {}
  Strength(const char* name, const char* argument, const Tensor& tensor, int64_t batch, const Tensor& logits)
      : tensor_(&tensor), type_(tensor.scalar_type()) {
    const int64_t dim = tensor.dim();
    if (dim > 1 || (dim == 1 && tensor.size(0) != batch))
      fail(name, ": ", argument, " must be a float or a tensor of shape () or (", batch, ",), got shape ",
           shape_text(tensor.sizes()));
    if (type_ == ScalarType::ComplexHalf || type_ == ScalarType::ComplexFloat || type_ == ScalarType::ComplexDouble)
      fail(name, ": ", argument, " must be a real tensor, got ", dtype_text(type_));
    if (!on_device_of(tensor, logits))
      fail(name, ": ", argument, " must be on the device of logits, ", device_text(logits), ", got ",
           device_text(tensor));
    data_ = tensor.const_data_ptr();
    if (dim == 1) stride_ = tensor.stride(0);
  }

  // Sample b's strength; for tensors on the CPU.
  double operator[](int64_t b) const {
    if (tensor_ == nullptr) return value_;
    return number_at(data_, type_, b * stride_);
  }

#if defined(SSG_HAVE_CUDA)
  // Read on the device, when the kernel runs.
  ssg::cuda::Strength on_cuda() const { return {data_, stride_, strength_scalar(type_), value_}; }
#endif

  // The tensor, or a 0-d tensor of the float.
  Tensor tensor() const {
    if (tensor_ != nullptr) return *tensor_;
    AtenTensorHandle handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(0, nullptr, nullptr, aoti_torch_dtype_float64(),
                                                           aoti_torch_device_type_cpu(), 0, &handle));
    Tensor made(handle);
    *static_cast<double*>(made.mutable_data_ptr()) = value_;
    return made;
  }

 private:
  const Tensor* tensor_ = nullptr;
  ScalarType type_ = ScalarType::Double;
  const void* data_ = nullptr;
  int64_t stride_ = 0;
  double value_ = 0.0;
};

// Memory

using Shape = std::array<int64_t, 3>;

template <size_t N>
Tensor empty_on_device_of(const Tensor& x, const std::array<int64_t, N>& sizes, ScalarType dtype) {
  std::array<int64_t, N> strides;
  strides[N - 1] = 1;
  for (size_t d = N - 1; d > 0; --d) strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(N, sizes.data(), strides.data(),
                                                         torch::stable::detail::to<int32_t>(from(dtype)),
                                                         device_type_of(x), device_index_of(x), &handle));
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

// The samples from `first` on, as the kernels of a backend take them.
template <class Logits>
Logits logits_at(const Tensor& x, const Facts& facts, int64_t first) {
  const auto* data = static_cast<const char*>(x.const_data_ptr());
  return {data + first * facts.stride[0] * item_bytes(facts.dtype), facts.stride[0], facts.stride[1]};
}

// Backends

template <class Result, class... Args>
Result call(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  if constexpr (std::is_same_v<Result, std::string>)
    return Text(stack[0]).string();
  else
    return torch::stable::detail::to<Result>(stack[0]);
}

#if defined(SSG_HAVE_CUDA)
static_assert(static_cast<int>(ssg::cuda::Scalar::float16) == static_cast<int>(ssg::cpu::Scalar::float16));
#endif

// Why the CUDA kernels cannot serve the device, or null where they can.
const char* cuda_unavailable([[maybe_unused]] int32_t device) {
#if defined(SSG_HAVE_CUDA)
  if (aoti_torch_get_current_cuda_stream == nullptr) return "this torch has no CUDA";
  return ssg::cuda::unavailable(device);
#else
  return "this build has no CUDA kernels";
#endif
}

// Whether the kernels here serve the call. If not, Python is to compute it: raises where SSG_KERNELS_BACKEND forbids.
bool serves(const Tensor& logits) {
  const char* asked = std::getenv("SSG_KERNELS_BACKEND");
  const bool cpu = on_cpu(logits);
  if ((asked == nullptr || *asked == '\0' || std::strcmp(asked, cpu ? "cpu" : "cuda") == 0) &&
      (cpu || cuda_unavailable(device_index_of(logits)) == nullptr))
    return true;
  const auto problem = call<std::string>("ssg::_python_problem", logits);
  if (!problem.empty()) fail(problem);
  return false;
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

// The step from both logits to `out`, without its strengths.
template <class Step>
Step step_of(ssg::cpu::Scalar scalar, int64_t sources, const Tensor& logits, const Facts& facts,
             const Tensor& prev_logits, const Facts& prev, const Tensor& out) {
  using Logits = decltype(Step::out);
  Step step;
  step.scalar = static_cast<decltype(Step::scalar)>(scalar);
  step.sources = sources;
  step.batch = facts.size[0] / sources;
  step.vocabulary = facts.size[2];
  for (int64_t s = 0; s < sources; ++s) {
    step.current[s] = logits_at<Logits>(logits, facts, s * step.batch);
    step.previous[s] = logits_at<Logits>(prev_logits, prev, s * step.batch);
  }
  step.out = logits_at<Logits>(out, Facts(out), 0);
  return step;
}

#if defined(SSG_HAVE_CUDA)
template <class Launch>
void on_current_stream(const Tensor& x, Launch&& launch) {
  const int32_t device = device_index_of(x);
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  launch(device, stream);
}

void run_cuda(const ssg::StepKey& key, const ssg::cuda::Step& step, const Tensor& logits) {
  on_current_stream(logits, [&](int32_t device, void* stream) { ssg::cuda::run(key, step, device, stream); });
}
#endif

void in_parallel(int64_t tasks, int64_t grain, ssg::cpu::Body body, const void* context) {
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

void run_kernel(const ssg::StepKey& key, const ssg::cpu::Step& step) {
  ssg::cpu::run(key, step, torch::stable::get_num_threads(), in_parallel);
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
  const ssg::cpu::Scalar scalar = scalar_of(name, "logits", facts.dtype);
  if (prev.dtype != facts.dtype)
    fail(name, ": prev_logits must have the dtype of logits, ", dtype_text(facts.dtype), ", got ",
         dtype_text(prev.dtype));
  if (!on_device_of(prev_logits, logits))
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
  key.prior = prior_of(name, options.prior.view());
  key.interpolation = interpolation_of(name, options.interpolation.view());
  key.rescale = options.rescale;
  if (is_cfg && facts.size[0] % 2 != 0)
    fail(name, ": logits must hold an even batch, conditional half first, got ", facts.size[0]);
  const int64_t batch = facts.size[0] / (is_cfg ? 2 : 1);

  constexpr std::array<const char*, 3> names = {"beta", "cfg", "prev_cfg"};
  size_t next = 0;
  const std::array<Strength, sizeof...(Strengths)> strength = {
      Strength(name, names[next++], strengths, batch, logits)...};

  const Shape shape = {batch, facts.size[1], facts.size[2]};
  if (given_out != nullptr) {
    const Facts out(*given_out);
    const bool fits = out.dim == 3 && out.dtype == facts.dtype && on_device_of(*given_out, logits) &&
                      std::equal(shape.begin(), shape.end(), out.size) && (out.stride[2] == 1 || out.size[2] <= 1);
    if (!fits)
      fail(name, ": out must be a ", shape_text(shape), " ", dtype_text(facts.dtype), " tensor on ",
           device_text(logits), " with a contiguous vocabulary, got ", shape_text(given_out->sizes()), " ",
           dtype_text(out.dtype), " on ", device_text(*given_out));
    const Rows written(*given_out, out, 0, batch);
    if (written.repeats()) fail(name, ": out must not share memory between its elements");
    if (written.overlaps(Rows(prev_logits, prev, 0, prev.size[0]))) fail(name, ": out must not overlap prev_logits");
    bool same = given_out->const_data_ptr() == logits.const_data_ptr();
    for (int d = 0; d < 3; ++d) same = same && (out.size[d] <= 1 || out.stride[d] == facts.stride[d]);
    const int64_t first_other = same ? batch : 0;
    if (written.overlaps(Rows(logits, facts, first_other, facts.size[0] - first_other)))
      fail(name, ": out must be logits itself or not overlap it");
  }

  Tensor out = given_out != nullptr ? *given_out : empty_on_device_of(logits, shape, facts.dtype);
  if (!serves(logits)) {
    const auto hand_over = [&](const char* op, const auto&... values) {
      return call<Tensor>(op, logits, prev_logits, options.size.vector(), options.prev_size.vector(),
                          values.tensor()..., options.prior.string(), options.interpolation.string(), options.rescale,
                          out);
    };
    return std::apply(
        hand_over,
        std::tuple_cat(std::tuple(is_cfg ? "ssg::_python_guided_logits_cfg" : "ssg::_python_guided_logits"), strength));
  }

  logits = readable(logits, facts);
  prev_logits = readable(prev_logits, prev);
#if defined(SSG_HAVE_CUDA)
  if (!on_cpu(logits)) {
    auto step = step_of<ssg::cuda::Step>(scalar, is_cfg ? 2 : 1, logits, facts, prev_logits, prev, out);
    step.beta = strength[0].on_cuda();
    if constexpr (is_cfg) {
      step.cfg = strength[1].on_cuda();
      step.prev_cfg = strength[2].on_cuda();
    }
    run_cuda(key, step, logits);
    return out;
  }
#endif
  auto step = step_of<ssg::cpu::Step>(scalar, is_cfg ? 2 : 1, logits, facts, prev_logits, prev, out);
  if (given_out == nullptr)
    ssg::cpu::advise_huge_pages(out.mutable_data_ptr(), shape[0] * shape[1] * shape[2] * item_bytes(facts.dtype));

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

template <class... Values, size_t... I>
std::tuple<Values...> arguments_from([[maybe_unused]] const StableIValue* stack, std::index_sequence<I...>) {
  return {torch::stable::detail::to<Values>(stack[I])...};
}

// logits, prev_logits, size, prev_size, one or three strengths, prior, interpolation, rescale, and `out` where IsOut.
template <bool IsOut, class... Strengths>
void guided(StableIValue* stack, uint64_t, uint64_t) {
  constexpr size_t count = sizeof...(Strengths);
  const char* name = count == 3 ? "guided_logits_cfg" : "guided_logits";
  Tensor logits = torch::stable::detail::to<Tensor>(stack[0]);
  Tensor prev_logits = torch::stable::detail::to<Tensor>(stack[1]);
  const auto strengths = arguments_from<Strengths...>(stack + 4, std::index_sequence_for<Strengths...>{});
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
  const ssg::cpu::Scalar scalar = scalar_of(name, "x", facts.dtype);
  ssg::StepKey key;
  key.size = grid_of(name, "size", size);
  key.prev_size = grid_of(name, "prev_size", prev_size);
  if (key.prev_size.h > key.size.h || key.prev_size.w > key.size.w)
    fail(name, ": prev_size must not exceed size, got prev_size ", shape_text(prev_size), " and size ",
         shape_text(size));
  check_tokens(name, "x", "L", transposed ? "size" : "prev_size", transposed ? key.size : key.prev_size, facts.size[1]);
  key.prior = prior_of(name, prior.view());
  key.interpolation = interpolation_of(name, interpolation.view());
  key.rescale = rescale;
  key.transposed = transposed;
  const Strength strength(name, "scale", scale, facts.size[0], x);
  if (!serves(x)) {
    stack[0] = from(call<Tensor>("ssg::_python_prior_linear", x, scale, size.vector(), prev_size.vector(),
                                 prior.string(), interpolation.string(), rescale, transposed));
    return;
  }

  x = readable(x, facts);
  const int64_t batch = facts.size[0];
  const Shape shape = {batch, (transposed ? key.prev_size : key.size).tokens(), facts.size[2]};
  Tensor out = empty_on_device_of(x, shape, facts.dtype);
  stack[0] = from(out);
#if defined(SSG_HAVE_CUDA)
  if (!on_cpu(x)) {
    auto step = step_of<ssg::cuda::Step>(scalar, 1, x, facts, x, facts, out);
    step.current[0].data = nullptr;
    step.beta = strength.on_cuda();
    run_cuda(key, step, x);
    return;
  }
#endif
  auto step = step_of<ssg::cpu::Step>(scalar, 1, x, facts, x, facts, out);
  step.current[0].data = nullptr;
  Weights weights(2 * batch);
  for (int64_t b = 0; b < batch; ++b) {
    weights.data()[2 * b] = 0.0;
    weights.data()[2 * b + 1] = strength[b];
  }
  step.weights = weights.data();
  run_kernel(key, step);
}

// One token per position

// What the largest of a row of logits is called where it is not finite.
std::string largest_text(const Tensor& logits, const Facts& facts, int64_t b, int64_t t) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t v = 0; v < facts.size[2]; ++v) {
    const int64_t at = b * facts.stride[0] + t * facts.stride[1] + v * facts.stride[2];
    const double value = number_at(logits.const_data_ptr(), facts.dtype, at);
    if (std::isnan(value)) return number_text(value);
    largest = std::max(largest, value);
  }
  return number_text(largest);
}

// logits, uniform, the scale where there is one, top_k, top_p
template <class... Scale>
void sampled(StableIValue* stack, uint64_t, uint64_t) {
  constexpr size_t count = sizeof...(Scale);
  const char* name = count == 0 ? "sample" : "_sample_tempered";
  Tensor logits = torch::stable::detail::to<Tensor>(stack[0]);
  const Tensor uniform = torch::stable::detail::to<Tensor>(stack[1]);
  const auto given_scale = arguments_from<Scale...>(stack + 2, std::index_sequence_for<Scale...>{});
  const auto top_k = torch::stable::detail::to<int64_t>(stack[2 + count]);
  const auto top_p = torch::stable::detail::to<double>(stack[3 + count]);
  Facts facts(logits);
  if (facts.dim != 3) fail(name, ": logits must be a 3-D tensor (B, L, V), got ", facts.dim, "-D");
  ssg::cpu::Sampling sampling;
  sampling.scalar = scalar_of(name, "logits", facts.dtype);
  sampling.batch = facts.size[0];
  sampling.tokens = facts.size[1];
  sampling.vocabulary = facts.size[2];
  sampling.top_k = top_k;
  sampling.top_p = top_p;
  if (sampling.vocabulary == 0) fail(name, ": logits must have at least one vocabulary column, got 0");
  if (uniform.dim() != 2 || uniform.size(0) != sampling.batch || uniform.size(1) != sampling.tokens)
    fail(name, ": uniform must have shape (B, L) = (", sampling.batch, ", ", sampling.tokens, "), got ",
         shape_text(uniform.sizes()));
  const ScalarType uniform_type = uniform.scalar_type();
  sampling.uniform_is_double = uniform_type == ScalarType::Double;
  if (!sampling.uniform_is_double && uniform_type != ScalarType::Float)
    fail(name, ": uniform must be float32 or float64, got ", dtype_text(uniform_type));
  if (!on_device_of(uniform, logits))
    fail(name, ": uniform must be on the device of logits, ", device_text(logits), ", got ", device_text(uniform));
  if (top_k < 0 || top_k > sampling.vocabulary)
    fail(name, ": top_k must be from 0 to V = ", sampling.vocabulary, ", got ", top_k);
  if (!(top_p >= 0 && top_p <= 1)) fail(name, ": top_p must be from 0 to 1, got ", number_text(top_p));
  const Strength scale = std::apply(
      [&](const auto&... value) {
        if constexpr (count == 0)
          return Strength(name, "scale", 1.0, sampling.batch, logits);
        else
          return Strength(name, "scale", value..., sampling.batch, logits);
      },
      given_scale);
  Weights scales(sampling.batch);
  for (int64_t b = 0; on_cpu(logits) && b < sampling.batch; ++b) {
    const double value = scale[b];
    if (!(value > 0 && value < std::numeric_limits<double>::infinity()) && sampling.tokens > 0)
      fail("sample: scale must be positive and finite, got ", number_text(value));
    scales.data()[b] = value;
  }
  const auto refuse_empty = [&](int64_t row) {
    const int64_t b = row / sampling.tokens;
    const int64_t t = row % sampling.tokens;
    fail("sample: logits must have a finite largest value in every row, got ", largest_text(logits, facts, b, t),
         " at (", b, ", ", t, ")");
  };
  if (!serves(logits)) {
    // It leaves the refusal to us: the text of what it raises would be lost on the way.
    const auto drawn = call<Tensor>("ssg::_python_sample", logits, uniform, scale.tensor(), top_k, top_p);
    if (on_cpu(logits)) {
      const auto* tokens = static_cast<const int64_t*>(drawn.const_data_ptr());
      for (int64_t r = 0; r < sampling.batch * sampling.tokens; ++r)
        if (tokens[r] < 0) refuse_empty(r);
    }
    stack[0] = from(drawn);
    return;
  }

  logits = readable(logits, facts);
  const std::array<int64_t, 2> shape = {sampling.batch, sampling.tokens};
#if defined(SSG_HAVE_CUDA)
  if (!on_cpu(logits)) {
    ssg::cuda::Sampling on_cuda;
    on_cuda.scalar = static_cast<ssg::cuda::Scalar>(sampling.scalar);
    on_cuda.batch = sampling.batch;
    on_cuda.tokens = sampling.tokens;
    on_cuda.vocabulary = sampling.vocabulary;
    on_cuda.logits = logits_at<ssg::cuda::Logits>(logits, facts, 0);
    on_cuda.uniform = uniform.const_data_ptr();
    on_cuda.uniform_is_double = sampling.uniform_is_double;
    on_cuda.uniform_batch_stride = uniform.stride(0);
    on_cuda.uniform_token_stride = uniform.stride(1);
    on_cuda.scale = scale.on_cuda();
    on_cuda.top_k = top_k;
    on_cuda.top_p = top_p;
    Tensor out = empty_on_device_of(logits, shape, ScalarType::Long);
    on_cuda.out = static_cast<int64_t*>(out.mutable_data_ptr());
    stack[0] = from(out);
    on_current_stream(logits, [&](int32_t device, void* stream) { ssg::cuda::sample(on_cuda, device, stream); });
    return;
  }
#endif
  Tensor out = empty_on_device_of(logits, shape, ScalarType::Long);
  stack[0] = from(out);
  sampling.logits = logits_at<ssg::cpu::Logits>(logits, facts, 0);
  sampling.uniform = uniform.const_data_ptr();
  sampling.uniform_batch_stride = uniform.stride(0);
  sampling.uniform_token_stride = uniform.stride(1);
  sampling.scale = scales.data();
  sampling.out = static_cast<int64_t*>(out.mutable_data_ptr());
  const int64_t empty = ssg::cpu::sample(sampling, in_parallel);
  if (empty >= 0) refuse_empty(empty);
}

// The same on every device: each call sees where its tensors are.
void register_kernels(torch::stable::detail::StableLibrary& m) {
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

  m.impl("sample", &sampled<>);
  m.impl("_sample_tempered", &sampled<Tensor>);
  m.impl("_sample_tempered.float", &sampled<double>);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssg, CPU, m) { register_kernels(m); }
#if defined(SSG_HAVE_CUDA)
STABLE_TORCH_LIBRARY_IMPL(ssg, CUDA, m) { register_kernels(m); }
#endif

// Importing the module registers the kernels; its functions say which of them run here.
static PyObject* cpu_capability(PyObject*, PyObject*) { return PyUnicode_FromString(ssg::cpu::kernel().name); }

static PyObject* cuda_reason(PyObject*, PyObject* device) {
  const long index = PyLong_AsLong(device);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  const char* reason = cuda_unavailable(static_cast<int32_t>(index));
  if (reason == nullptr) Py_RETURN_NONE;
  return PyUnicode_FromString(reason);
}

// ((h, w), (prev_h, prev_w), prior, interpolation, dtype, batch, vocabulary, sources, capability, multiprocessors)
static PyObject* cuda_plan(PyObject*, PyObject* arguments) {
  long long h = 0, w = 0, prev_h = 0, prev_w = 0, batch = 0, vocabulary = 0, sources = 0;
  int capability = 0, multiprocessors = 0;
  const char *prior = nullptr, *interpolation = nullptr, *dtype = nullptr;
  if (!PyArg_ParseTuple(arguments, "(LL)(LL)sssLLLii", &h, &w, &prev_h, &prev_w, &prior, &interpolation, &dtype, &batch,
                        &vocabulary, &sources, &capability, &multiprocessors))
    return nullptr;
  try {
    ssg::StepKey key;
    key.size = {h, w};
    key.prev_size = {prev_h, prev_w};
    key.prior = prior_of("cuda_plan", prior);
    key.interpolation = interpolation_of("cuda_plan", interpolation);
    ssg::cuda::Step step;
    step.scalar = choice_of<ssg::cuda::Scalar>("cuda_plan", "dtype", dtype,
                                               std::array{"float32", "float64", "bfloat16", "float16"});
    step.batch = batch;
    step.vocabulary = vocabulary;
    step.sources = sources;
    return PyUnicode_FromString(ssg::cuda::describe(key, step, capability, multiprocessors).c_str());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

static PyMethodDef kMethods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "The instruction set of the CPU kernel that runs here."},
    {"cuda_unavailable", cuda_reason, METH_O, "Why the CUDA kernels cannot serve device N; None where they can."},
    {"cuda_plan", cuda_plan, METH_VARARGS, "How the CUDA kernels would be launched for a step on a kind of device."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }

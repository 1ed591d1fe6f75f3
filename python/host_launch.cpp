// What a launch hands to the driver, as bytes: so that tests can execute the compiled kernels without one.
#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>

#include "cuda/dispatch.h"
#include "cuda/pack.h"
#include "cuda/params.h"
#include "cuda/sample.h"
#include "host.h"
#include "host_cuda.h"

namespace py = pybind11;

namespace ssg {
namespace {

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? text.get() : name;
}

template <class T>
py::bytes bytes_of(const T& params) {
  static_assert(std::is_trivially_copyable_v<T>);
  return py::bytes(reinterpret_cast<const char*>(&params), sizeof(T));
}

py::dict launch_of(const std::string& function, const std::string& argument, py::bytes params, int64_t blocks,
                   int threads, int64_t shared_bytes, py::bytes coefficients) {
  return py::dict(py::arg("function") = function, py::arg("argument") = argument, py::arg("params") = params,
                  py::arg("blocks") = blocks, py::arg("threads") = threads, py::arg("shared_bytes") = shared_bytes,
                  py::arg("coefficients") = coefficients);
}

// As csrc/cuda/run.cu launches it, with the packed coefficients at `coefficients_at`.
py::dict guided_launch(const host_cuda::Call& made, const cuda::LaunchPlan& plan, uintptr_t coefficients_at) {
  py::dict launch;
  cuda::with_storage(made.call.scalar, [&](auto storage) {
    using S = decltype(storage);
    using T = typename cuda::Storage<S>::Compute;
    const cuda::Packed<T> packed = cuda::pack<T>(made.step, plan);
    const auto* data = reinterpret_cast<const T*>(coefficients_at);
    const py::bytes coefficients(reinterpret_cast<const char*>(packed.values.data()), packed.values.size() * sizeof(T));
    if (plan.is_direct()) {
      cuda::DirectParams params = cuda::direct_params_of(made.step, made.call);
      cuda::set_coefficients(params, packed, data);
      const int64_t tokens = made.call.batch * params.out_h * params.out_w;
      launch = launch_of("guided_logits_direct_kernel", demangled(typeid(S).name()), bytes_of(params),
                         tokens < (1 << 20) ? tokens : 1 << 20, 256, 0, coefficients);
      return;
    }
    cuda::with_kernel_of<S>(plan.tile, made.call.sources, [&](auto kernel) {
      using K = typename decltype(kernel)::Type;
      typename K::Parameters params;
      if constexpr (std::is_same_v<typename K::Parameters, cuda::Params>)
        params = cuda::params_of(made.step, plan, made.call);
      else if constexpr (std::is_same_v<typename K::Parameters, cuda::DenseParams>)
        params = cuda::dense_params_of(made.step, plan, made.call);
      else
        params = cuda::tensor_params_of(made.step, plan, made.call);
      cuda::set_coefficients(params, packed, data);
      launch = launch_of("guided_logits_kernel", demangled(typeid(K).name()), bytes_of(params), plan.blocks,
                         plan.warps * 32, plan.shared_bytes, coefficients);
    });
  });
  return launch;
}

py::dict sample_launch(const cuda::SampleCall& call) {
  const cuda::SamplePlan plan = cuda::plan_sample(call);
  py::dict launch;
  cuda::with_storage(call.scalar, [&](auto storage) {
    const std::string name = demangled(typeid(storage).name());
    const auto launched = [&](const char* function, const std::string& argument) {
      launch = launch_of(function, argument, bytes_of(plan.params), plan.blocks, plan.threads, plan.shared_bytes,
                         py::bytes());
    };
    switch (plan.form) {
      case cuda::SampleForm::two: return launched("sample_few_kernel", name + ", 2");
      case cuda::SampleForm::few: return launched("sample_few_kernel", name + ", " + std::to_string(cuda::kFewColumns));
      case cuda::SampleForm::block: return launched("sample_block_kernel", name);
      default: return launched("sample_long_kernel", name);
    }
  });
  return launch;
}

}  // namespace

void bind_launch(py::module_& module) {
  module.def("demangled", &demangled, py::arg("name"));
  module.def("cuda_launch", &guided_launch, py::arg("call"), py::arg("plan"), py::arg("coefficients_at"),
             "The launch of a plan: kernel, its template argument, grid, parameters, and the coefficients to upload.");
  module.def(
      "cuda_sample_launch",
      [](const host_cuda::Place& logits, const host_cuda::Place& uniform, bool uniform_is_double,
         const host_cuda::Number& scale, uintptr_t out, const std::string& dtype, int64_t batch, int64_t tokens,
         int64_t vocabulary, const host_cuda::Number& top_k, const host_cuda::Number& top_p) {
        return sample_launch(host_cuda::sample_call_of(logits, uniform, uniform_is_double, scale, out, dtype, batch,
                                                       tokens, vocabulary, top_k, top_p));
      },
      py::kw_only(), py::arg("logits"), py::arg("uniform"), py::arg("uniform_is_double"), py::arg("scale"),
      py::arg("out"), py::arg("dtype"), py::arg("batch"), py::arg("tokens"), py::arg("vocabulary"), py::arg("top_k"),
      py::arg("top_p"), "The same for sampling, which uploads nothing.");
}

}  // namespace ssg

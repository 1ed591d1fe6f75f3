// Loading libssg_kernels registers the operators of namespace `ssg` with torch: their schemas and the kernels here. That
// needs no Python.
#include "library.h"

#include <torch/csrc/stable/library.h>

#include "cpu/kernel.h"
#include "cuda/kernel.h"
#include "kernels.h"
#include "names.h"

namespace ssg::ops {
namespace {

// ssg_kernels/_torch/schema.py, as CMakeLists.txt has it written out.
constexpr const char* kSchemas[] = {
#include "schemas.inc"
};

std::vector<Kernel> kernels() {
  std::vector<Kernel> kernels;
  append_guided(kernels);
  append_prior_linear(kernels);
  append_sample(kernels);
  return kernels;
}

using torch::stable::detail::StableLibrary;
using torch::stable::detail::StableTorchLibraryInit;

void define(StableLibrary& library) {
  for (const char* schema : kSchemas) library.def(schema);
}

void implement(StableLibrary& library) {
  for (const Kernel& kernel : kernels()) library.impl(kernel.name.c_str(), kernel.boxed);
}

// As STABLE_TORCH_LIBRARY does, with the namespace of the build.
const StableTorchLibraryInit definitions(StableLibrary::Kind::DEF, define, SSG_NAMESPACE, nullptr, __FILE__, __LINE__);
const StableTorchLibraryInit on_cpu(StableLibrary::Kind::IMPL, implement, SSG_NAMESPACE, "CPU", __FILE__, __LINE__);
#if defined(SSG_HAVE_CUDA)
const StableTorchLibraryInit on_cuda(StableLibrary::Kind::IMPL, implement, SSG_NAMESPACE, "CUDA", __FILE__, __LINE__);
#endif

}  // namespace

const char* cpu_capability() { return cpu::kernel().name; }

CpuPlan cpu_plan(Grid size, Grid prev_size, const char* prior, const char* interpolation) {
  cpu::PlanKey key;
  key.step.size = size;
  key.step.prev_size = prev_size;
  key.step.prior = parse("prior", kPriors, prior);
  key.step.interpolation = parse("interpolation", kInterpolations, interpolation);
  key.accumulators = cpu::kernel().accumulators;
  const auto plan = cpu::cached_plan<float>(key);
  return {plan->describe(), plan->multiply_adds};
}

std::string cuda_plan(const CudaPlanRequest& request) {
  StepKey key;
  key.size = request.size;
  key.prev_size = request.prev_size;
  key.prior = parse("prior", kPriors, request.prior);
  key.interpolation = parse("interpolation", kInterpolations, request.interpolation);
  cuda::GuidedCall call;
  call.scalar = parse("dtype", kDtypes, request.dtype);
  call.batch = request.batch;
  call.vocabulary = request.vocabulary;
  call.sources = request.sources;
  return cuda::describe(key, call, request.capability, request.multiprocessors);
}

std::vector<std::string> registered() {
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels()) names.push_back(kernel.name);
  return names;
}

}  // namespace ssg::ops

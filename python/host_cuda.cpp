#include "host_cuda.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/device.h"
#include "cuda/host/run.h"
#include "host.h"
#include "names.h"

namespace py = pybind11;

namespace ssg {
namespace {

using cuda::Engine;
using cuda::LaunchPlan;
using cuda::Tile;
using host_cuda::Call;
using host_cuda::logits_of;
using host_cuda::Number;
using host_cuda::Place;
using host_cuda::strength_of;

constexpr Named<Engine> kEngineNames[] = {
    {"dense", Engine::dense}, {"fma", Engine::fma}, {"mma", Engine::mma}, {"direct", Engine::direct}};
constexpr Names<Engine> kEngines = kEngineNames;

// The tile with these properties. Throws std::invalid_argument where the table has none.
Tile tile_of(const std::string& engine, int thread_columns, int in) {
  const Engine wanted = parse("engine", kEngines, engine);
  if (wanted == Engine::direct) return {};
  for (const Tile& tile : cuda::kTiles)
    if (tile.engine == wanted && tile.thread_columns == thread_columns && tile.in == in) return tile;
  throw std::invalid_argument("there is no such tile");
}

cuda::host::Order order_of(bool reverse) { return reverse ? cuda::host::Order::reverse : cuda::host::Order::forward; }

Call make_call(const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
               bool rescale, bool transposed, const std::string& dtype, int64_t batch, int64_t vocabulary,
               const std::vector<Place>& current, const std::vector<Place>& previous, const Place& out,
               const std::vector<Number>& strengths, int capability, int multiprocessors) {
  Call made;
  made.step = make_step(make_key(size, prev_size, prior, interpolation, rescale, transposed));
  cuda::GuidedCall& call = made.call;
  call.scalar = parse("dtype", kDtypes, dtype);
  call.batch = batch;
  call.vocabulary = vocabulary;
  call.sources = static_cast<int64_t>(previous.size());
  if (call.sources < 1 || call.sources > 2 || (!current.empty() && current.size() != previous.size()))
    throw py::value_error("one or two sources");
  for (size_t s = 0; s < previous.size(); ++s) {
    if (!current.empty()) call.current[s] = logits_of(current[s]);
    call.previous[s] = logits_of(previous[s]);
  }
  call.out = logits_of(out);
  Strength* const strength[] = {&call.beta, &call.cfg, &call.prev_cfg};
  for (size_t s = 0; s < strengths.size() && s < 3; ++s) *strength[s] = strength_of(strengths[s]);
  made.machine = cuda::machine_of(capability, multiprocessors);
  return made;
}

// Runs a small kernel with one fault, for which tests expect the shim to raise. It has two warps and 256 bytes of
// shared memory. Returns the 64 floats that it wrote.
std::vector<float> run_fault(const std::string& fault, bool reverse) {
  alignas(16) static const float source[64] = {1, 2, 3, 4};
  std::vector<float> out(64);
  const auto kernel = [&] {
    auto* shared = reinterpret_cast<float*>(cuda::shared_memory());
    const int thread = cuda::thread_index();
    float sums[4] = {};
    if (fault == "missing barrier") {
      shared[thread] = static_cast<float>(thread);
      out[static_cast<size_t>(thread)] = shared[63 - thread];
    } else if (fault == "missing wait") {
      if (thread < 16) cuda::copy_async_16(shared + 4 * thread, source + 4 * thread);
      cuda::copy_async_commit();
      cuda::barrier();
      out[static_cast<size_t>(thread)] = shared[thread];
      cuda::barrier();
      cuda::copy_async_wait();
    } else if (fault == "never waited") {
      if (thread < 16) cuda::copy_async_16(shared + 4 * thread, source + 4 * thread);
      cuda::copy_async_commit();
    } else if (fault == "out of bounds") {
      cuda::store_shared(shared + 64 + thread, 0.0f);
    } else if (fault == "written behind") {
      shared[64] = 0.0f;
    } else if (fault == "misaligned") {
      cuda::load_shared(reinterpret_cast<const cuda::Vec<float, 4>*>(shared + 1));
    } else if (fault == "part of a block") {
      if (thread < 32) cuda::barrier();
    } else if (fault == "part of a warp") {
      if (thread % 32 < 7) cuda::mma_16x8x8(sums, 0, 0, 0);
    } else if (fault == "different instructions") {
      if (thread % 32 < 7)
        cuda::mma_16x8x8(sums, 0, 0, 0);
      else
        cuda::mma_16x8x16(sums, {}, 0, 0);
    } else {
      throw py::value_error("unknown fault '" + fault + "'");
    }
  };
  cuda::host::run_block(0, 1, 64, 256, order_of(reverse), kernel);
  return out;
}

// The product of a (16 x depth) and b (depth x 8), rounded to float16, computed by one warp on the emulated tensor cores.
std::vector<float> run_mma(const std::vector<float>& a, const std::vector<float>& b, int depth) {
  if ((depth != 8 && depth != 16) || a.size() != static_cast<size_t>(16 * depth) ||
      b.size() != static_cast<size_t>(8 * depth))
    throw py::value_error("a is 16 x depth, b is depth x 8, depth is 8 or 16");
  std::vector<float> c(16 * 8);
  cuda::host::run_block(0, 1, 32, 0, cuda::host::Order::forward, [&] {
    const int g = cuda::thread_index() / 4;
    const int l = cuda::thread_index() % 4;
    const auto at = [&](int row, int k) {
      const float* from = a.data() + row * depth + k;
      return cuda::pack_float16(from[0], from[1]);
    };
    const auto bt = [&](int k, int column) {
      return cuda::pack_float16(b[static_cast<size_t>(k * 8 + column)], b[static_cast<size_t>(k * 8 + 8 + column)]);
    };
    float sums[4] = {};
    if (depth == 16)
      cuda::mma_16x8x16(sums, {{at(g, 2 * l), at(g + 8, 2 * l), at(g, 2 * l + 8), at(g + 8, 2 * l + 8)}}, bt(2 * l, g),
                        bt(2 * l + 8, g));
    else
      cuda::mma_16x8x8(sums, at(g, 2 * l), at(g + 8, 2 * l), bt(2 * l, g));
    for (int i = 0; i < 4; ++i) c[static_cast<size_t>((g + i / 2 * 8) * 8 + 2 * l + i % 2)] = sums[i];
  });
  return c;
}

}  // namespace

void bind_cuda(py::module_& module) {
  py::list tiles;
  for (const Tile& tile : cuda::kTiles)
    tiles.append(py::make_tuple(name_of(kEngines, tile.engine), tile.thread_columns, tile.in, tile.out));
  module.attr("cuda_tiles") = py::tuple(tiles);

  py::class_<LaunchPlan>(module, "CudaPlan")
      .def_property_readonly("engine", [](const LaunchPlan& plan) { return name_of(kEngines, plan.tile.engine); })
      .def_property_readonly("thread_columns", [](const LaunchPlan& plan) { return plan.tile.thread_columns; })
      .def_property_readonly("made_for", [](const LaunchPlan& plan) { return plan.tile.in; })
      .def_readonly("column_warps", &LaunchPlan::column_warps)
      .def_property_readonly("columns", &LaunchPlan::columns)
      .def_readonly("warps", &LaunchPlan::warps)
      .def_readonly("group_pairs", &LaunchPlan::group_pairs)
      .def_readonly("splits", &LaunchPlan::splits)
      .def_readonly("shared_bytes", &LaunchPlan::shared_bytes)
      .def_readonly("blocks", &LaunchPlan::blocks)
      .def_readonly("resident", &LaunchPlan::resident)
      .def_readonly("cycles", &LaunchPlan::cycles)
      .def_readonly("arithmetic", &LaunchPlan::arithmetic)
      .def_readonly("traffic", &LaunchPlan::traffic)
      .def_readonly("latency", &LaunchPlan::latency)
      .def(
          "with_blocks",
          [](LaunchPlan plan, int64_t blocks) {
            plan.blocks = blocks;
            return plan;
          },
          py::arg("blocks"), "The same with that many blocks, of which each does more: for the MMA engine.")
      .def("describe", &LaunchPlan::describe)
      .def("__str__", &LaunchPlan::describe);

  py::class_<Call>(module, "CudaCall")
      .def(py::init(&make_call), py::kw_only(), py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse",
           py::arg("interpolation") = "bilinear", py::arg("rescale") = false, py::arg("transposed") = false,
           py::arg("dtype") = "float32", py::arg("batch") = 1, py::arg("vocabulary") = 1,
           py::arg("current") = std::vector<Place>{}, py::arg("previous") = std::vector<Place>{Place{0, 0, 0}},
           py::arg("out") = Place{0, 0, 0}, py::arg("strengths") = std::vector<Number>{}, py::arg("capability") = 90,
           py::arg("multiprocessors") = 132)
      .def(
          "plan", [](const Call& call) { return cuda::plan_launch(call.step, call.call, call.machine); },
          "The launch plan of this call on this machine.")
      .def(
          "candidates", [](const Call& call) { return cuda::candidates(call.step, call.call, call.machine); },
          "For each tile that serves the call, the best plan.")
      .def(
          "plan_with",
          [](const Call& call, const std::string& engine, int thread_columns, int column_warps, int warps,
             int group_pairs, int splits, int made_for) {
            LaunchPlan choices;
            choices.tile = tile_of(engine, thread_columns, made_for);
            choices.column_warps = column_warps;
            choices.warps = warps;
            choices.group_pairs = group_pairs;
            choices.splits = splits;
            return cuda::plan_launch(call.step, call.call, call.machine, choices);
          },
          py::arg("engine"), py::arg("thread_columns") = 2, py::arg("column_warps") = 1, py::arg("warps") = 4,
          py::arg("group_pairs") = 1, py::arg("splits") = 1, py::arg("made_for") = 0)
      .def(
          "run",
          [](const Call& call, const LaunchPlan& plan, bool reverse) {
            cuda::host::run(call.step, call.call, plan, order_of(reverse));
          },
          py::arg("plan"), py::arg("reverse") = false,
          "Runs the kernel's source on host memory, block by block; RuntimeError for what the shim finds wrong.");

  module.def(
      "cuda_sample",
      [](const Place& logits, const Place& uniform, bool uniform_is_double, const Number& scale, uintptr_t out,
         const std::string& dtype, int64_t batch, int64_t tokens, int64_t vocabulary, const Number& top_k,
         const Number& top_p, bool reverse) {
        const cuda::SampleCall call = host_cuda::sample_call_of(logits, uniform, uniform_is_double, scale, out, dtype,
                                                                batch, tokens, vocabulary, top_k, top_p);
        cuda::host::sample(call, order_of(reverse));
      },
      py::kw_only(), py::arg("logits"), py::arg("uniform"), py::arg("uniform_is_double"), py::arg("scale"),
      py::arg("out"), py::arg("dtype"), py::arg("batch"), py::arg("tokens"), py::arg("vocabulary"), py::arg("top_k"),
      py::arg("top_p"), py::arg("reverse"), "Runs the sampling kernel's source on host memory, as CudaCall.run does.");

  module.def("cuda_fault", &run_fault, py::arg("fault"), py::arg("reverse") = false);
  module.def("cuda_mma", &run_mma, py::arg("a"), py::arg("b"), py::arg("depth"));
  module.def(
      "cuda_round",
      [](float x, const std::string& dtype) {
        if (dtype == "bfloat16") {
          cuda::BFloat16 y;
          cuda::from_float(y, x);
          return std::make_pair(static_cast<int>(y.bits), cuda::to_float(y));
        }
        cuda::Float16 y;
        cuda::from_float(y, x);
        return std::make_pair(static_cast<int>(y.bits), cuda::to_float(y));
      },
      py::arg("x"), py::arg("dtype"), "The bits that x rounds to, and what they stand for.");
}

}  // namespace ssg

// ssg_kernels._host shows the tests the core, which needs no torch. It is built for development only; nothing in the
// package imports it.
#include "host.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/plan.h"
#include "factors.h"
#include "names.h"

namespace py = pybind11;

namespace ssg {
namespace {

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<double> to_array(const Matrix& m) {
  return py::array_t<double>(std::vector<py::ssize_t>{m.rows, m.cols}, m.values.data());
}

void require_axis(int64_t from, int64_t to) {
  if (from <= 0) throw py::value_error("n_from must be positive, got " + std::to_string(from));
  if (to <= 0) throw py::value_error("n_to must be positive, got " + std::to_string(to));
}

}  // namespace

StepKey make_key(const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
                 bool rescale, bool transposed) {
  StepKey key;
  key.size = {size.first, size.second};
  key.prev_size = {prev_size.first, prev_size.second};
  key.prior = parse("prior", kPriors, prior);
  key.interpolation = parse("interpolation", kInterpolations, interpolation);
  key.rescale = rescale;
  key.transposed = transposed;
  return key;
}

namespace {

py::tuple to_tuple(const cpu::Chunk& chunk) { return py::make_tuple(chunk.begin, chunk.rows, chunk.offset); }

py::list to_list(const std::vector<cpu::Chunk>& chunks) {
  py::list list;
  for (const cpu::Chunk& chunk : chunks) list.append(to_tuple(chunk));
  return list;
}

// The dtypes of coefficients.
constexpr Named<Scalar> kComputed[] = {{name_of(kDtypes, Scalar::float32), Scalar::float32},
                                       {name_of(kDtypes, Scalar::float64), Scalar::float64}};

template <class T>
void bind_plan(py::module_& module, const char* suffix) {
  using P = cpu::Plan<T>;
  using Tap = cpu::Taps<T>;
  py::class_<Tap>(module, (std::string("Taps") + suffix).c_str())
      .def_readonly("even", &Tap::even)
      .def_readonly("odd", &Tap::odd)
      .def_property_readonly("index", [](const Tap& taps) { return to_array(taps.index); })
      .def_property_readonly("coefficient", [](const Tap& taps) { return to_array(taps.coefficient); });

  // Plans of the cache are const, so every property is read-only.
  py::class_<P, std::shared_ptr<P>>(module, (std::string("Plan") + suffix).c_str())
      .def_property_readonly("form", [](const P& plan) { return plan.form == Form::dense ? "dense" : "separable"; })
      .def_property_readonly("max_rows", [](const P& plan) { return plan.key.max_rows; })
      .def_property_readonly("in_h", [](const P& plan) { return plan.h.in; })
      .def_property_readonly("out_h", [](const P& plan) { return plan.h.out; })
      .def_property_readonly("in_w", [](const P& plan) { return plan.w.in; })
      .def_property_readonly("out_w", [](const P& plan) { return plan.w.out; })
      .def_property_readonly("symmetric_h", [](const P& plan) { return plan.h.symmetric; })
      .def_property_readonly("symmetric_w", [](const P& plan) { return plan.w.symmetric; })
      .def_readonly("terms", &P::terms)
      .def_readonly("slots", &P::slots)
      .def_readonly("slot_even", &P::slot_even)
      .def_readonly("slot_odd", &P::slot_odd)
      .def_readonly("block_pairs", &P::block_pairs)
      .def_readonly("blocks", &P::blocks)
      .def_readonly("dense_terms", &P::dense_terms)
      .def_property_readonly("block_chunks",
                             [](const P& plan) {
                               py::list blocks;
                               for (const auto& chunks : plan.block_chunks) blocks.append(to_list(chunks));
                               return blocks;
                             })
      .def_property_readonly("h_coefficients", [](const P& plan) { return to_array(plan.h_coefficients); })
      .def_readonly("banded_terms", &P::banded_terms)
      .def_property_readonly("h_taps",
                             [](const P& plan) {
                               py::list list;
                               for (const Tap& taps : plan.h_taps) list.append(py::cast(taps));
                               return list;
                             })
      .def_readonly("dense_even", &P::dense_even)
      .def_readonly("dense_odd", &P::dense_odd)
      .def_property_readonly("w_chunks", [](const P& plan) { return to_list(plan.w_chunks); })
      .def_property_readonly("w_coefficients", [](const P& plan) { return to_array(plan.w_coefficients); })
      .def_property_readonly("w_taps", [](const P& plan) { return plan.w_taps; })
      .def_readonly("multiply_adds", &P::multiply_adds)
      .def("describe", &P::describe)
      .def("__str__", &P::describe);
}

template <class T>
py::object find_plan(const cpu::PlanKey& key) {
  return py::cast(std::const_pointer_cast<cpu::Plan<T>>(cpu::cached_plan<T>(key)));
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "The torch-free core of ssg_kernels, for tests: factors in float64, and the packed plan of a step.";

  module.def(
      "dct_matrix",
      [](int64_t n) {
        if (n <= 0) throw py::value_error("n must be positive, got " + std::to_string(n));
        return to_array(dct_matrix(n));
      },
      py::arg("n"));
  module.def(
      "interpolation_matrix",
      [](int64_t n_from, int64_t n_to, const std::string& interpolation) {
        require_axis(n_from, n_to);
        return to_array(interpolation_matrix(n_from, n_to, parse("interpolation", kInterpolations, interpolation)));
      },
      py::arg("n_from"), py::arg("n_to"), py::arg("interpolation") = "bilinear");
  module.def(
      "axis_factors",
      [](int64_t n_from, int64_t n_to, const std::string& interpolation, bool rescale) {
        require_axis(n_from, n_to);
        if (n_from > n_to) throw py::value_error("n_from must not exceed n_to");
        const AxisFactors factors =
            axis_factors(n_from, n_to, parse("interpolation", kInterpolations, interpolation), rescale);
        return py::make_tuple(to_array(factors.interpolated), to_array(factors.spliced), to_array(factors.low_band));
      },
      py::arg("n_from"), py::arg("n_to"), py::arg("interpolation") = "bilinear", py::arg("rescale") = false,
      "(U, B, G), each n_to x n_from.");
  module.def(
      "is_symmetric",
      [](const py::array_t<double, py::array::c_style | py::array::forcecast>& values) {
        if (values.ndim() != 2) throw py::value_error("a matrix has two dimensions");
        Matrix m(values.shape(0), values.shape(1));
        std::copy(values.data(), values.data() + values.size(), m.values.begin());
        return is_symmetric(m);
      },
      py::arg("matrix"));
  module.def(
      "prior_terms",
      [](const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
         bool rescale, bool transposed) {
        py::list list;
        for (const Term& term : terms_of(make_key(size, prev_size, prior, interpolation, rescale, transposed)))
          list.append(py::make_tuple(to_array(term.h), to_array(term.w)));
        return list;
      },
      py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse", py::arg("interpolation") = "bilinear",
      py::arg("rescale") = false, py::arg("transposed") = false);
  module.def(
      "dense_operator",
      [](const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
         bool rescale, bool transposed) {
        return to_array(dense_operator(terms_of(make_key(size, prev_size, prior, interpolation, rescale, transposed))));
      },
      py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse", py::arg("interpolation") = "bilinear",
      py::arg("rescale") = false, py::arg("transposed") = false);

  bind_plan<float>(module, "Float32");
  bind_plan<double>(module, "Float64");
  module.def(
      "plan",
      [](const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
         bool rescale, bool transposed, int64_t max_rows, const std::string& dtype) -> py::object {
        const cpu::PlanKey key{make_key(size, prev_size, prior, interpolation, rescale, transposed), max_rows};
        if (max_rows <= 0) throw py::value_error("max_rows must be positive, got " + std::to_string(max_rows));
        if (parse("dtype", Names(kComputed), dtype) == Scalar::float64) return find_plan<double>(key);
        return find_plan<float>(key);
      },
      py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse", py::arg("interpolation") = "bilinear",
      py::arg("rescale") = false, py::arg("transposed") = false, py::arg("max_rows") = 6, py::arg("dtype") = "float32",
      "The cached plan of a step; its packed coefficients are those that a kernel reads.");
  bind_cuda(module);
}

}  // namespace ssg

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
  py::array_t<double> array(std::vector<py::ssize_t>{m.rows, m.cols});
  auto entries = array.mutable_unchecked<2>();
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c) entries(r, c) = m(r, c);
  return array;
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

// The dtypes of coefficients.
constexpr Named<Scalar> kComputed[] = {{name_of(kDtypes, Scalar::float32), Scalar::float32},
                                       {name_of(kDtypes, Scalar::float64), Scalar::float64}};

template <class T>
py::dict to_dict(const cpu::Expansion<T>& matrix) {
  py::list chunks;
  for (const cpu::Chunk& chunk : matrix.chunks) {
    py::list runs;
    for (const cpu::Chunk::Run& run : chunk.runs) runs.append(py::make_tuple(run.begin, run.count));
    chunks.append(py::make_tuple(chunk.begin, chunk.orbits, chunk.offset, runs));
  }
  py::dict dict;
  dict["out"] = matrix.out;
  dict["folds"] = matrix.folds;
  dict["lengths"] = std::vector<int64_t>(matrix.lengths, matrix.lengths + matrix.folds + 1);
  dict["chunks"] = chunks;
  dict["coefficients"] = to_array(matrix.coefficients);
  return dict;
}

template <class T>
py::list to_list(const cpu::Transform<T>& blocks) {
  py::list list;
  for (const cpu::Block<T>& block : blocks) list.append(py::make_tuple(block.in, block.out, to_dict(block.matrix)));
  return list;
}

// Arrays [row][count] of indices and of coefficients.
template <class T>
py::tuple to_tuple(const cpu::Taps<T>& taps) {
  const std::vector<py::ssize_t> shape = {
      taps.count == 0 ? 0 : static_cast<py::ssize_t>(taps.index.size()) / static_cast<py::ssize_t>(taps.count),
      static_cast<py::ssize_t>(taps.count)};
  return py::make_tuple(py::array_t<int32_t>(shape, taps.index.data()), py::array_t<T>(shape, taps.coefficient.data()));
}

template <class T>
void bind_plan(py::module_& module, const char* suffix) {
  using P = cpu::Plan<T>;
  // Plans of the cache are const, so every property is read-only.
  py::class_<P, std::shared_ptr<P>>(module, (std::string("Plan") + suffix).c_str())
      .def_property_readonly("form",
                             [](const P& plan) {
                               constexpr const char* kForms[] = {"dense", "separable", "rank", "spectrum"};
                               return kForms[static_cast<int>(plan.structure)];
                             })
      .def_property_readonly("accumulators", [](const P& plan) { return plan.key.accumulators; })
      .def_readonly("swapped", &P::swapped)
      .def_readonly("in_h", &P::in_h)
      .def_readonly("in_w", &P::in_w)
      .def_readonly("out_h", &P::out_h)
      .def_readonly("out_w", &P::out_w)
      .def_readonly("row", &P::row)
      .def_readonly("pairs_h", &P::pairs_h)
      .def_readonly("pairs_w", &P::pairs_w)
      .def_property_readonly("lift_h", [](const P& plan) { return to_list(plan.lift_h); })
      .def_readonly("lifted", &P::lifted)
      .def_property_readonly("w_taps", [](const P& plan) { return to_tuple(plan.w_taps); })
      .def_property_readonly("h_taps", [](const P& plan) { return to_tuple(plan.h_taps); })
      .def_readonly("folds_h", &P::folds_h)
      .def_readonly("folds_w", &P::folds_w)
      .def_property_readonly("spectrum_h", [](const P& plan) { return to_list(plan.spectrum_h); })
      .def_property_readonly("spectrum_w", [](const P& plan) { return to_list(plan.spectrum_w); })
      .def_readonly("groups", &P::groups)
      .def_property_readonly("bracket_h", [](const P& plan) { return to_tuple(plan.bracket_h); })
      .def_property_readonly("bracket_w", [](const P& plan) { return to_tuple(plan.bracket_w); })
      .def_property_readonly("lift_w", [](const P& plan) { return to_list(plan.lift_w); })
      .def_property_readonly("columns",
                             [](const P& plan) {
                               py::list list;
                               for (const cpu::Columns& columns : plan.columns)
                                 list.append(py::make_tuple(columns.from, columns.to, columns.count, columns.factor));
                               return list;
                             })
      .def_property_readonly("h",
                             [](const P& plan) {
                               py::list list;
                               for (const cpu::Expansion<T>& factor : plan.h) list.append(to_dict(factor));
                               return list;
                             })
      .def_property_readonly("w", [](const P& plan) { return to_dict(plan.w); })
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
      "stored_entries",
      [](const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation) {
        size_t count = 0;
        for (const Term& term : terms_of(make_key(size, prev_size, prior, interpolation, false, false)))
          count += term.h.values.size() + term.w.values.size();
        return count;
      },
      py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse", py::arg("interpolation") = "bilinear",
      "How many entries the factors of a step's terms store.");
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
         bool rescale, bool transposed, int64_t accumulators, const std::string& dtype) -> py::object {
        const cpu::PlanKey key{make_key(size, prev_size, prior, interpolation, rescale, transposed), accumulators};
        if (accumulators <= 0)
          throw py::value_error("accumulators must be positive, got " + std::to_string(accumulators));
        if (parse("dtype", Names(kComputed), dtype) == Scalar::float64) return find_plan<double>(key);
        return find_plan<float>(key);
      },
      py::arg("size"), py::arg("prev_size"), py::arg("prior") = "dse", py::arg("interpolation") = "bilinear",
      py::arg("rescale") = false, py::arg("transposed") = false, py::arg("accumulators") = 12,
      py::arg("dtype") = "float32",
      "The cached plan of a step; its packed coefficients are those that a kernel reads.");
  bind_cuda(module);
  bind_launch(module);
}

}  // namespace ssg

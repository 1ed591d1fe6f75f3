// The module _C: what Python asks the library libssg_kernels, which comes with it and registers the operators.
#include <Python.h>

#include <exception>
#include <string>
#include <vector>

#include "library.h"
#include "names.h"

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) { return PyUnicode_FromString(ssg::ops::cpu_capability()); }

PyObject* cuda_unavailable(PyObject*, PyObject* device) {
  const long index = PyLong_AsLong(device);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  const char* reason = ssg::ops::cuda_unavailable(static_cast<int32_t>(index));
  if (reason == nullptr) Py_RETURN_NONE;
  return PyUnicode_FromString(reason);
}

// ((h, w), (prev_h, prev_w), prior, interpolation)
PyObject* cpu_plan(PyObject*, PyObject* arguments) {
  long long h = 0, w = 0, prev_h = 0, prev_w = 0;
  const char *prior = nullptr, *interpolation = nullptr;
  if (!PyArg_ParseTuple(arguments, "(LL)(LL)ss", &h, &w, &prev_h, &prev_w, &prior, &interpolation)) return nullptr;
  try {
    const ssg::ops::CpuPlan plan = ssg::ops::cpu_plan({h, w}, {prev_h, prev_w}, prior, interpolation);
    return Py_BuildValue("sL", plan.description.c_str(), static_cast<long long>(plan.multiply_adds));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

// A sequence of families, at most 31 each.
PyObject* hand_over_the_rest(PyObject*, PyObject* given) {
  std::vector<int> families;
  const Py_ssize_t count = PySequence_Size(given);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* family = PySequence_GetItem(given, i);
    families.push_back(family == nullptr ? -1 : static_cast<int>(PyLong_AsLong(family) & 31));
    Py_XDECREF(family);
  }
  if (PyErr_Occurred()) return nullptr;
  ssg::ops::hand_over_the_rest(families);
  Py_RETURN_NONE;
}

// ((h, w), (prev_h, prev_w), prior, interpolation, dtype, batch, vocabulary, sources, capability, multiprocessors)
PyObject* cuda_plan(PyObject*, PyObject* arguments) {
  long long h = 0, w = 0, prev_h = 0, prev_w = 0, batch = 0, vocabulary = 0, sources = 0;
  ssg::ops::CudaPlanRequest request = {};
  if (!PyArg_ParseTuple(arguments, "(LL)(LL)sssLLLii", &h, &w, &prev_h, &prev_w, &request.prior, &request.interpolation,
                        &request.dtype, &batch, &vocabulary, &sources, &request.capability, &request.multiprocessors))
    return nullptr;
  request.size = {h, w};
  request.prev_size = {prev_h, prev_w};
  request.batch = batch;
  request.vocabulary = vocabulary;
  request.sources = sources;
  try {
    return PyUnicode_FromString(ssg::ops::cuda_plan(request).c_str());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

// Adds a list to a dictionary; false where Python has raised.
bool set_list(PyObject* dictionary, const char* key, const std::vector<std::string>& texts) {
  PyObject* list = PyList_New(0);
  bool done = list != nullptr;
  for (const std::string& text : texts) {
    PyObject* item = done ? PyUnicode_FromString(text.c_str()) : nullptr;
    done = item != nullptr && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
  }
  done = done && PyDict_SetItemString(dictionary, key, list) == 0;
  Py_XDECREF(list);
  return done;
}

template <class Enum>
std::vector<std::string> texts_of(ssg::Names<Enum> names) {
  std::vector<std::string> texts;
  for (const auto& [name, value] : names) texts.emplace_back(name);
  return texts;
}

PyObject* names(PyObject*, PyObject*) {
  std::vector<std::string> overloads;
  for (const std::string& name : ssg::ops::registered()) overloads.push_back("ssg::" + name);
  PyObject* found = PyDict_New();
  if (found != nullptr && set_list(found, "priors", texts_of(ssg::kPriors)) &&
      set_list(found, "interpolations", texts_of(ssg::kInterpolations)) &&
      set_list(found, "dtypes", texts_of(ssg::kDtypes)) &&
      set_list(found, "strength_dtypes", texts_of(ssg::kStrengthDtypes)) && set_list(found, "overloads", overloads))
    return found;
  Py_XDECREF(found);
  return nullptr;
}

PyMethodDef kMethods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "The instruction set of the CPU kernel that runs here."},
    {"cuda_unavailable", cuda_unavailable, METH_O, "Why the CUDA kernels cannot serve device N; None where they can."},
    {"cpu_plan", cpu_plan, METH_VARARGS, "How the CPU kernel computes a step, and its multiply-adds per column."},
    {"hand_over_the_rest", hand_over_the_rest, METH_O,
     "Makes Python serve the calls that no kernel here serves, and those on cards of the given families."},
    {"cuda_plan", cuda_plan, METH_VARARGS, "How the CUDA kernels would be launched for a step on a kind of device."},
    {"names", names, METH_NOARGS, "The names of priors, interpolations and dtypes, and the operators registered here."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }

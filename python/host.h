// Shared by the files of _host.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "step.h"

namespace ssg {

using Size = std::pair<int64_t, int64_t>;

StepKey make_key(const Size& size, const Size& prev_size, const std::string& prior, const std::string& interpolation,
                 bool rescale, bool transposed);

// Adds the launch plan of the CUDA kernels, and their source run on the host.
void bind_cuda(pybind11::module_& module);

}  // namespace ssg

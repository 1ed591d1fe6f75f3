// What every call must fulfil: ssg_kernels/_checks.py, function by function and in its order. The sentences are the
// same ones, and tests/ops/test_errors.py compares them. Each function throws std::runtime_error where its counterpart
// raises ValueError; some return what they found on the way.
#pragma once

#include "arguments.h"
#include "step.h"

namespace ssg::ops::checks {

// guided_logits, guided_logits_cfg (_guided)
StepKey guided(const GuidedArguments& given);

StepKey prior_linear(const PriorLinearArguments& given);

void sample(const char* name, const SampleArguments& given);

// Writing `out`, of the right shape, must not destroy an input before it is read.
void output_memory(const char* name, const Operand& out, const Operand& logits, const Operand& prev_logits);

void strength(const char* name, const char* argument, const StrengthArgument& value, int64_t batch,
              const Device& device);

}  // namespace ssg::ops::checks

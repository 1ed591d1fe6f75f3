// The conditions that every call must fulfil. ssg_kernels/_checks.py has the same functions with the same sentences, in
// the same order; tests/ops/test_errors.py compares the two. A function throws std::runtime_error where its counterpart
// raises ValueError. Some return the key of the step, which they read on the way.
#pragma once

#include "arguments.h"
#include "step.h"

namespace ssg::ops::checks {

StepKey guided(const GuidedArguments& given);

StepKey prior_linear(const PriorLinearArguments& given);

void sample(const char* name, const SampleArguments& given);

// Throws where writing `out`, of the right shape, would destroy an input before it is read.
void output_memory(const char* name, const Operand& out, const Operand& logits, const Operand& prev_logits);

void strength(const char* name, const char* argument, const StrengthArgument& value, int64_t batch,
              const Device& device);

}  // namespace ssg::ops::checks

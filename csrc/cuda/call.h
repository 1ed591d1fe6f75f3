// What a call hands to the CUDA kernels. Strengths may lie on the device, so the kernels read them when they run.
#pragma once

#include "../call.h"

namespace ssg::cuda {

// One source:       out = (1 + beta) current[0] - beta P previous[0]
// Two sources:      out = (1 + beta) ((1 + cfg) current[0] - cfg current[1])
//                         - beta P ((1 + prev_cfg) previous[0] - prev_cfg previous[1])
// Without current:  out = beta P previous[0]
struct GuidedCall : ssg::GuidedCall {
  Strength beta;
  Strength cfg;
  Strength prev_cfg;
};

struct SampleCall : ssg::SampleCall {
  Strength scale;  // 1 / temperature: what the logits are multiplied by
  Strength top_k;  // 0 keeps all
  Strength top_p;  // 0 keeps all
};

}  // namespace ssg::cuda

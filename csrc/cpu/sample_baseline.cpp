#define SSG_NAMESPACE baseline
#include "sample_impl.h"

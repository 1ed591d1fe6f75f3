#define SSG_NAMESPACE baseline
#define SSG_NAME "baseline"
#include "kernel_impl.h"

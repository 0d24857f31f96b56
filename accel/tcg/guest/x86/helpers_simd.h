// Helpers of x87, MMX and vector instructions. See helpers.h.
#pragma once

#define HELPERS_SIMD(X)

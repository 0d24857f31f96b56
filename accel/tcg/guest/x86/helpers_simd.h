// Helpers of x87, MMX and vector instructions. See helpers.h.
#pragma once

// clang-format off
#define HELPERS_SIMD(X)                                                                                                            \
  X(native_stub, state)                                                                                                            \
  X(masked_move, state)                                                                                                            \
  X(masked_bytes, state) X(gather, state) X(vzero, state) X(fence, leaf) X(ldmxcsr, state) X(stmxcsr, state) X(fpu_wait, state)    \
      X(fpu_store_control, state) X(fpu_load_control, state) X(fpu_store_status, state) X(fpu_clear, state) X(fpu_init, state)     \
          X(fpu_load_environment, state) X(fpu_store_environment, state) X(fpu_save, state) X(fpu_restore, state) X(fxsave, state) \
              X(fxrstor, state) X(xsave, state) X(xrstor, state) X(xgetbv, state) X(xsetbv, state)
// clang-format on

// Helpers of system instructions (helpers_system.cpp, helpers_transfer.cpp, helpers_io.cpp, helpers_msr.cpp, smm.cpp). See helpers.h.
#pragma once

// clang-format off
#define HELPERS_SYSTEM(X)                                                                                                              \
  X(load_segment, state)                                                                                                               \
  X(far_jump, state) X(far_call, state) X(far_ret, state) X(iret, state) X(int_n, state) X(int3, state) X(into, state) X(int1, state)  \
  X(syscall, state) X(sysret, state) X(sysenter, state) X(sysexit, state) X(read_cr, heavy) X(write_cr, heavy) X(read_dr, state)       \
  X(write_dr, state) X(clts, state) X(lmsw, heavy) X(smsw, state) X(lgdt, state) X(lidt, state) X(sgdt, state) X(sidt, state)          \
  X(lldt, state) X(ltr, state) X(sldt, state) X(str, state) X(lar, state) X(lsl, state) X(verr, state) X(verw, state) X(arpl, leaf)    \
  X(in_port, heavy) X(out_port, heavy) X(string_io, heavy) X(cpuid, heavy) X(rdmsr, heavy) X(wrmsr, heavy) X(rdtsc, state)             \
  X(rdtscp, state) X(rdpmc, state) X(hlt, state) X(invlpg, heavy) X(invpcid, heavy) X(privileged, state) X(monitor, state)             \
  X(mwait, state) X(swapgs, state) X(read_fsgs_base, state) X(write_fsgs_base, state) X(clac, state) X(stac, state) X(cli, state)      \
  X(sti, state) X(rsm, heavy) X(rdpkru, state) X(wrpkru, heavy) X(clzero, state)                               \
  X(movdir64b, state)
// clang-format on

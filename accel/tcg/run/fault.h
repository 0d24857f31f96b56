// Host signals raised by generated code: SIGSEGV, SIGBUS and SIGFPE at a listed host instruction become the interpretation of its
// guest instruction; any other is our own crash (translator.md §8).
#pragma once

#include "src/base/result.h"

namespace vmm::tcg {

class FirstTier;

// Code whose faults are looked up; the handlers are installed with the first.
void register_code(FirstTier& tier);
void unregister_code(FirstTier& tier);
// The calling thread's alternate signal stack; vCPU threads need one.
Result<> prepare_signal_stack();

}  // namespace vmm::tcg

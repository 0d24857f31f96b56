// The driver "fuzz-memory": one file in memory, at most 64 MiB of it, whose bytes the fuzzer sets before a node opens it.
#pragma once

#include "block/core/node.h"

namespace vmm::fuzz {

extern std::vector<u8> contents;

}  // namespace vmm::fuzz

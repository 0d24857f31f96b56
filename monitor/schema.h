// The answer of query-qmp-schema, made from the declarations of commands and events. Source: contract.md §2.3.
#pragma once

#include <vector>

#include "src/value/value.h"

namespace vmm::monitor {
std::vector<Value> make_schema();
}  // namespace vmm::monitor

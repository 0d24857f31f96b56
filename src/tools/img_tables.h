// Texts that several commands of vmm img print.
#pragma once

#include "src/value/value.h"

namespace vmm::tools::img {

std::string snapshot_table(const Value& snapshots);
std::string created_line(const std::string& name, const std::string& format_name, u64 size, const Value& options);

}  // namespace vmm::tools::img

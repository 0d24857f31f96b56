// A whole file of bounded size: kernels, ROMs, configuration files, key files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {

// The bytes of a regular file, a pipe or a device, at most `limit_bytes`. The error says why, after `what` and a colon. Blocks; any thread.
Result<std::vector<u8>> read_file(const std::string& path, u64 limit_bytes, std::string_view what);

}  // namespace vmm

// Base64. Source: RFC 4648 §4.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {
std::string to_base64(std::span<const u8> bytes);
// Blanks and line ends between digits are allowed.
Result<std::vector<u8>> from_base64(std::string_view text);
}  // namespace vmm

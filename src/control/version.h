// The version that management tools see (contract.md §1.2: at least 8, the same everywhere), and our own.
#pragma once

#include <string_view>

namespace vmm::control {
inline constexpr int version_major = 8, version_minor = 2, version_micro = 0;
inline constexpr std::string_view version_text = "8.2.0", package_text = "vmm 0.1.0";
}  // namespace vmm::control

// "did you mean": what stands behind the near names of error messages.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vmm {

// Up to three names near `word`, the nearest first.
std::vector<std::string> nearest_names(std::string_view word, std::span<const std::string> names);
// "Near names: 'a', 'b'", or what is valid where nothing is near; empty without names.
std::string near_hint(std::string_view word, std::span<const std::string> names);

}  // namespace vmm

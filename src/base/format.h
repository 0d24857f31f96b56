// Text formatting: libfmt behind our own name, until the standard library has <format>.
#pragma once

#include <fmt/format.h>

namespace vmm {
using fmt::format;
using fmt::format_to;
}  // namespace vmm

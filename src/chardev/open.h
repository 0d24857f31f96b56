// Files of character back ends; /dev/fdset/N means a descriptor that was handed to us.
#pragma once

#include <string>

#include "src/base/fd.h"
#include "src/base/result.h"

namespace vmm {

// Close-on-exec; errors read as the user expects: "Could not open 'PATH': reason".
Result<Fd> open_for_chardev(const std::string& path, int flags);

}  // namespace vmm

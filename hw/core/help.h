// Texts about device types: `-device help`, `-device T,help`, `info qtree`.
#pragma once

#include <string>

#include "src/base/result.h"

namespace vmm::hw {

std::string describe_device_types();                                 // `-device help`
Result<std::string> describe_device_options(std::string_view type);  // `-device T,help`; error if there is no such device

}  // namespace vmm::hw

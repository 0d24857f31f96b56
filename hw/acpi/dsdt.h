// The differentiated system description: what the PC boards tell of themselves in ACPI machine language.
#pragma once

#include <vector>

#include "hw/acpi/tables.h"

namespace vmm::hw {
std::vector<u8> build_dsdt(const AcpiInput& input);  // without the table header
}  // namespace vmm::hw

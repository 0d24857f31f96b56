// The panic notifier: a guest that has panicked writes its event bits. Shared by the ISA port and the PCI function.
// Source: docs/specs of pvpanic as drivers know it: bit 0 panicked, bit 1 crash kernel loaded, bit 2 (newer) orderly shutdown.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

inline constexpr u8 pvpanic_panicked = 1, pvpanic_crash_loaded = 2;
void pvpanic_written(Device& device, u8 events);

}  // namespace vmm::hw

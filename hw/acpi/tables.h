// The ACPI tables of the PC boards, and the script by which the firmware places and joins them (fw_cfg files etc/acpi/tables,
// etc/acpi/rsdp, etc/table-loader). Source: ACPI 6.4 §5.2; HPET 1.0a §3.2.4; PCI Firmware 3.2 §4.1.2 (MCFG).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/base/types.h"

namespace vmm::hw {

struct AcpiPciBridge;
// A PCI bus as the tables tell of it: where the guest may be told that devices come and go.
struct AcpiPciBus {
  int number = -1;  // by which the hot-plug registers know it; -1: nothing is plugged here
  u32 slots = 0;    // that may be filled or emptied
  std::vector<AcpiPciBridge> bridges;
};
struct AcpiPciBridge {
  u8 devfn = 0;
  AcpiPciBus bus;
};

struct AcpiInput {
  bool q35 = false;
  std::vector<u32> apic_ids;      // by CPU index, those that may come later as well
  std::vector<bool> absent_cpus;  // the same: not here now; empty: all are
  u16 cpu_hotplug_port = 0;       // registers of AcpiCpuHotplug; 0: none
  u8 io_apic_id = 0;
  u64 ram_below_4g = 0;                   // start of the PCI hole
  u64 hole64_first = 0, hole64_last = 0;  // 0, 0: no 64-bit window
  u16 pm_base = 0x600;                    // as the firmware will set it
  u16 gpe0_base = 0;                      // 0: pm_base + 0x20
  u8 gpe0_bytes = 4;
  u8 acpi_enable = 0xf1, acpi_disable = 0xf0;
  bool s3 = true, s4 = true;
  bool hpet = true;
  u64 ecam_base = 0, ecam_bytes = 0;        // q35
  u8 serial_ports = 1, parallel_ports = 1;  // bit n: port n is there
  bool i8042 = true;
  bool fw_cfg = true;    // on ports 0x510–0x51b
  u16 pvpanic_port = 0;  // 0: none
  AcpiPciBus pci;
  u16 hotplug_port = 0;         // registers of AcpiPciHotplug; 0: none
  bool native_hotplug = false;  // q35: the guest may run the slots of root ports itself
  // PIRQ (0 = A … 7 = H) of pin 0–3 of a device number on the root bus, as the chip set routes it.
  std::function<unsigned(unsigned slot, unsigned pin)> pirq;
};

struct AcpiTables {
  std::vector<u8> tables, rsdp, loader;
};
AcpiTables build_acpi_tables(const AcpiInput& input);

}  // namespace vmm::hw

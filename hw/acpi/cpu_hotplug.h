// CPU hot plug by ACPI: the registers through which the tables' methods learn which CPUs have come and which are to leave. Source: the
// published register interface "acpi_cpu_hotplug" of QEMU's boards (12 bytes of ports), which OVMF reads as well; dsdt.cpp has the methods.
#pragma once

#include "hw/acpi/pm.h"
#include "hw/core/device.h"

namespace vmm::hw {

class AcpiCpuHotplug final : public Device {
 public:
  static const TypeInfo type;
  static constexpr unsigned gpe_bit = 2;
  // What the board knows of its CPUs, by index below `count`.
  struct Cpus {
    unsigned count = 1;
    std::function<bool(unsigned)> present;
    std::function<u32(unsigned)> apic_id;
    std::function<std::string(unsigned)> id;    // the user's, for events
    std::function<std::string(unsigned)> path;  // in the tree
    std::function<void(unsigned)> eject;        // the guest has given it up
  };
  void wire(memory::MemoryRegion& ports, u16 port, AcpiPm& pm, Cpus cpus);
  u16 port() const { return port_; }
  void plugged(unsigned index);
  Result<> ask_to_leave(unsigned index);
  void reset() override;
  // query-acpi-ospm-status: what the guest said last of each.
  struct Outcome {
    unsigned index = 0;
    u32 source = 0, status = 0;
    std::string id;
  };
  std::vector<Outcome> outcomes() const;

 private:
  struct Cpu {
    bool came = false, leaves = false;
    u32 event = 0, status = 0;
  };
  Result<> realize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void data_written(u32 value);
  void next_with_event();
  std::vector<u32> saved() const;
  Result<> load_cpus(const std::vector<u32>& words);
  static const Field state[3];

  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion region_;
  AcpiPm* pm_ = nullptr;
  u16 port_ = 0;
  Cpus cpus_;
  u32 selected_ = 0;
  u8 command_ = 0;
  std::vector<Cpu> list_;
};

}  // namespace vmm::hw

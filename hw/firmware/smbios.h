// SMBIOS tables for the firmware (fw_cfg files etc/smbios/smbios-anchor and etc/smbios/smbios-tables). Source: DSP0134 3.6.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/value/value.h"

namespace vmm::hw {

struct SmbiosInput {
  std::string product;        // "Standard PC (i440FX + PIIX, 1996)"
  std::string version;        // machine type name
  std::array<u8, 16> uuid{};  // RFC 4122 order
  bool uuid_given = false;
  u64 ram_bytes = 0, ram_below_4g = 0;
  unsigned sockets = 1, cores = 1, threads = 1;
  u32 cpu_signature = 0, cpu_features_edx = 0;  // CPUID leaf 1
  std::string cpu_version;                      // "pc-i440fx-8.2"
  std::vector<Value> options;                   // one object a -smbios option: {"type":"1","serial":"x",…} or {"file":PATH}
};

struct SmbiosTables {
  std::vector<u8> anchor, tables;
};
Result<SmbiosTables> build_smbios(const SmbiosInput& input);

}  // namespace vmm::hw

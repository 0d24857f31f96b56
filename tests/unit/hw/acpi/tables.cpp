#include "hw/acpi/tables.h"

#include <cstdlib>
#include <fstream>

#include "src/base/bits.h"
#include "tests/unit/test.h"

namespace vmm::hw {
namespace {

AcpiInput board(bool q35) {
  AcpiInput in;
  in.q35 = q35;
  in.apic_ids = {0, 1, 2, 3};
  in.ram_below_4g = 0x10000000;
  in.pm_base = 0x600;
  in.hole64_first = 0x100000000, in.hole64_last = 0x17fffffff;
  if (q35) in.ecam_base = 0xb0000000, in.ecam_bytes = 0x10000000;
  in.pirq = [q35](unsigned slot, unsigned pin) { return q35 ? 4 + (slot + pin) % 4 : (slot + pin + 3) % 4; };
  return in;
}

// What the firmware does with the loader script, with the files at fixed addresses.
void run_loader(AcpiTables& t, u64 tables_at, u64 rsdp_at) {
  const auto file = [&](const u8* name) -> std::vector<u8>& {
    return std::string_view{reinterpret_cast<const char*>(name)} == "etc/acpi/rsdp" ? t.rsdp : t.tables;
  };
  for (usize at = 0; at + 128 <= t.loader.size(); at += 128) {
    const u8* c = &t.loader[at];
    const u32 op = load_le<u32>(c);
    if (op == 2) {
      std::vector<u8>& to = file(c + 4);
      const u64 base = &file(c + 60) == &t.tables ? tables_at : rsdp_at;
      const u32 offset = load_le<u32>(c + 116);
      const u8 size = c[120];
      u64 v = 0;
      std::memcpy(&v, &to.at(offset), size);
      v += base;
      std::memcpy(&to.at(offset + size - 1) - (size - 1), &v, size);
    } else if (op == 3) {
      std::vector<u8>& f = file(c + 4);
      const u32 sum_at = load_le<u32>(c + 60), start = load_le<u32>(c + 64), length = load_le<u32>(c + 68);
      u8 sum = 0;
      for (u32 i = 0; i < length; i++) sum = static_cast<u8>(sum + f.at(start + i));
      f.at(sum_at) = static_cast<u8>(f.at(sum_at) - sum);
    }
  }
}

}  // namespace

TEST(acpi_tables_link_up_once_the_firmware_has_run_the_loader_script) {
  for (bool q35 : {false, true}) {
    AcpiTables t = build_acpi_tables(board(q35));
    constexpr u64 base = 0x0ffe0000;
    run_loader(t, base, 0xf0000);
    u8 sum = 0;
    for (u8 b : t.rsdp) sum = static_cast<u8>(sum + b);
    CHECK_EQ(sum, 0);
    const usize xsdt = load_le<u64>(&t.rsdp[24]) - base;
    CHECK(std::memcmp(&t.tables.at(xsdt), "XSDT", 4) == 0);
    const u32 length = load_le<u32>(&t.tables[xsdt + 4]);
    std::string seen;
    for (usize at = xsdt + 36; at < xsdt + length; at += 8) {
      const usize table = load_le<u64>(&t.tables[at]) - base;
      seen += std::string{reinterpret_cast<const char*>(&t.tables.at(table)), 4} + " ";
      u8 table_sum = 0;
      for (u32 i = 0; i < load_le<u32>(&t.tables[table + 4]); i++) table_sum = static_cast<u8>(table_sum + t.tables.at(table + i));
      CHECK_EQ(table_sum, 0);
      if (std::memcmp(&t.tables[table], "FACP", 4) == 0) {
        CHECK(std::memcmp(&t.tables.at(load_le<u32>(&t.tables[table + 36]) - base), "FACS", 4) == 0);
        CHECK(std::memcmp(&t.tables.at(load_le<u64>(&t.tables[table + 140]) - base), "DSDT", 4) == 0);
      }
    }
    CHECK_EQ(seen, q35 ? "FACP APIC HPET MCFG WAET " : "FACP APIC HPET WAET ");
  }
}

TEST(acpi_tables_disassemble_and_compile_again_without_errors) {
  if (std::system("command -v iasl >/dev/null") != 0) test::skip("iasl is not installed (Debian package acpica-tools)");
  for (bool q35 : {false, true}) {
    AcpiTables t = build_acpi_tables(board(q35));
    run_loader(t, 0x0ffe0000, 0xf0000);
    char folder[] = "/tmp/vmm-acpi-XXXXXX";
    CHECK(::mkdtemp(folder) != nullptr);
    const usize at = 64;  // the DSDT follows the FACS
    const u32 length = load_le<u32>(&t.tables[at + 4]);
    std::ofstream{std::string{folder} + "/dsdt.aml", std::ios::binary}.write(reinterpret_cast<const char*>(&t.tables[at]), length);
    const std::string run =
        format("cd {} && iasl -d dsdt.aml >d.log 2>&1 && iasl -tc dsdt.dsl >c.log 2>&1 && grep -q ' 0 Errors' c.log", folder);
    const int status = std::system(run.c_str());
    if (status != 0) std::system(format("cat {0}/d.log {0}/c.log", folder).c_str());
    std::system(format("rm -rf {}", folder).c_str());
    CHECK_EQ(status, 0);
  }
}

}  // namespace vmm::hw

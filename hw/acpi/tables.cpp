#include "hw/acpi/tables.h"

#include <algorithm>
#include <cstring>

#include "hw/acpi/aml.h"
#include "hw/acpi/dsdt.h"
#include "src/base/assert.h"
#include "src/base/bits.h"

namespace vmm::hw {
namespace {

using aml::Bytes;

template <std::unsigned_integral T>
void put(Bytes& to, T value) {
  for (usize i = 0; i < sizeof(T); i++) to.push_back(static_cast<u8>(value >> (8 * i)));
}
void put_text(Bytes& to, std::string_view text, usize width) {
  for (usize i = 0; i < width; i++) to.push_back(static_cast<u8>(i < text.size() ? text[i] : ' '));
}
// Generic address structure.
void put_address(Bytes& to, bool io, u8 bits, u64 address) {
  to.push_back(io ? 1 : 0);
  to.push_back(bits);
  to.push_back(0);
  to.push_back(0);
  put<u64>(to, address);
}

constexpr std::string_view tables_file = "etc/acpi/tables", rsdp_file = "etc/acpi/rsdp";

// Collects tables and the loader's commands (128 bytes each).
class Builder {
 public:
  AcpiTables out;

  void allocate(std::string_view file, u32 alignment, u8 zone) {
    Bytes c = command(1);
    put_file(c, file);
    put<u32>(c, alignment);
    c.push_back(zone);
    finish(c);
  }
  // Adds where `target` was placed to the pointer of `bytes` bytes at `offset` of `file`.
  void pointer(std::string_view file, std::string_view target, u32 offset, u8 bytes) {
    Bytes c = command(2);
    put_file(c, file);
    put_file(c, target);
    put<u32>(c, offset);
    c.push_back(bytes);
    finish(c);
  }
  void checksum(std::string_view file, u32 at, u32 start, u32 length) {
    Bytes c = command(3);
    put_file(c, file);
    put<u32>(c, at);
    put<u32>(c, start);
    put<u32>(c, length);
    finish(c);
  }
  // Header and body of one table; its place in the tables file. Checksums are the loader's work.
  u32 table(std::string_view signature, u8 revision, const Bytes& body) {
    const auto at = static_cast<u32>(out.tables.size());
    Bytes t;
    put_text(t, signature, 4);
    put<u32>(t, static_cast<u32>(36 + body.size()));
    t.push_back(revision);
    t.push_back(0);
    put_text(t, "BOCHS ", 6);
    put_text(t, "BXPC    ", 8);
    put<u32>(t, 1);
    put_text(t, "BXPC", 4);
    put<u32>(t, 1);
    aml::append(t, body);
    aml::append(out.tables, t);
    checksum(tables_file, at + 9, at, static_cast<u32>(t.size()));
    return at;
  }

 private:
  static Bytes command(u32 number) {
    Bytes c;
    put<u32>(c, number);
    return c;
  }
  static void put_file(Bytes& c, std::string_view name) {
    for (usize i = 0; i < 56; i++) c.push_back(static_cast<u8>(i < name.size() ? name[i] : 0));
  }
  void finish(Bytes& c) {
    c.resize(128);
    aml::append(out.loader, c);
  }
};

Bytes fadt_body(const AcpiInput& in, u32 facs, u32 dsdt) {
  const u16 gpe0 = in.gpe0_base ? in.gpe0_base : static_cast<u16>(in.pm_base + 0x20);
  Bytes b;
  put<u32>(b, facs);
  put<u32>(b, dsdt);
  b.push_back(1);  // interrupt model (ACPI 1.0)
  b.push_back(0);
  put<u16>(b, 9);     // SCI
  put<u32>(b, 0xb2);  // SMI command port
  b.push_back(in.acpi_enable);
  b.push_back(in.acpi_disable);
  b.push_back(0);
  b.push_back(0);
  put<u32>(b, in.pm_base);  // PM1a event
  put<u32>(b, 0);
  put<u32>(b, in.pm_base + 4u);  // PM1a control
  put<u32>(b, 0);
  put<u32>(b, 0);
  put<u32>(b, in.pm_base + 8u);  // timer
  put<u32>(b, gpe0);
  put<u32>(b, 0);
  for (u8 v : {4, 2, 0, 4, int{in.gpe0_bytes}, 0, 0, 0}) b.push_back(static_cast<u8>(v));
  put<u16>(b, 0xfff);  // no C2
  put<u16>(b, 0xfff);  // no C3
  put<u16>(b, 0);
  put<u16>(b, 0);
  for (u8 v : {0, 0, 0, 0, 0x32}) b.push_back(v);  // duty, alarms; century byte of the RTC
  put<u16>(b, (in.i8042 ? 2 : 0) | 1);             // legacy devices, 8042
  b.push_back(0);
  put<u32>(b, 1 << 0 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 10 | 1 << 15);  // WBINVD, C1, no sleep button, RTC, reset register, platform clock
  put_address(b, true, 8, 0xcf9);
  b.push_back(0x0f);  // reset value
  put<u16>(b, 0);
  b.push_back(0);
  put<u64>(b, 0);  // X_FIRMWARE_CTRL: the 32-bit one counts
  put<u64>(b, dsdt);
  put_address(b, true, 32, in.pm_base);
  put_address(b, true, 0, 0);
  put_address(b, true, 16, in.pm_base + 4u);
  put_address(b, true, 0, 0);
  put_address(b, true, 0, 0);
  put_address(b, true, 32, in.pm_base + 8u);
  put_address(b, true, static_cast<u8>(in.gpe0_bytes * 8), gpe0);
  put_address(b, true, 0, 0);
  ASSERT(b.size() == 244 - 36);
  return b;
}

Bytes madt_body(const AcpiInput& in) {
  Bytes b;
  put<u32>(b, 0xfee00000);
  put<u32>(b, 1);  // PC-AT compatible: two 8259
  for (usize i = 0; i < in.apic_ids.size(); i++) {
    const u32 enabled = i < in.absent_cpus.size() && in.absent_cpus[i] ? 0 : 1;
    if (in.apic_ids[i] < 255) {
      b.insert(b.end(), {0, 8, static_cast<u8>(i), static_cast<u8>(in.apic_ids[i])});
      put<u32>(b, enabled);
    } else {
      b.insert(b.end(), {9, 16, 0, 0});
      put<u32>(b, in.apic_ids[i]);
      put<u32>(b, enabled);
      put<u32>(b, static_cast<u32>(i));
    }
  }
  b.insert(b.end(), {1, 12, in.io_apic_id, 0});
  put<u32>(b, 0xfec00000);
  put<u32>(b, 0);
  const auto override_irq = [&](u8 irq, u32 gsi, u16 flags) {
    b.insert(b.end(), {2, 10, 0, irq});
    put<u32>(b, gsi);
    put<u16>(b, flags);
  };
  override_irq(0, 2, 0);
  // Lines that PCI may use are level-triggered and active high here.
  for (u8 irq : {5, 9, 10, 11}) override_irq(irq, irq, 0xd);
  b.insert(b.end(), {4, 6, 0xff, 0, 0, 1});  // LINT1 of every CPU is NMI
  return b;
}

}  // namespace

AcpiTables build_acpi_tables(const AcpiInput& in) {
  Builder b;
  b.allocate(rsdp_file, 16, 2);
  b.allocate(tables_file, 64, 1);
  // FACS first: it must be 64-aligned.
  Bytes& tables = b.out.tables;
  put_text(tables, "FACS", 4);
  put<u32>(tables, 64);
  tables.resize(64);
  std::vector<u32> listed;
  const u32 dsdt = b.table("DSDT", 2, build_dsdt(in));
  const u32 fadt = static_cast<u32>(tables.size());
  // Pointers within the file start as offsets; the loader adds where the file lies.
  b.pointer(tables_file, tables_file, fadt + 36, 4);
  b.pointer(tables_file, tables_file, fadt + 40, 4);
  b.pointer(tables_file, tables_file, fadt + 140, 8);
  listed.push_back(b.table("FACP", 3, fadt_body(in, 0, dsdt)));
  listed.push_back(b.table("APIC", 3, madt_body(in)));
  if (in.hpet) {
    Bytes h;
    put<u32>(h, 0x8086a201);
    put_address(h, false, 0, 0xfed00000);
    h.push_back(0);
    put<u16>(h, 0);
    h.push_back(0);
    listed.push_back(b.table("HPET", 1, h));
  }
  if (in.ecam_bytes) {
    Bytes m;
    put<u64>(m, 0);
    put<u64>(m, in.ecam_base);
    put<u16>(m, 0);
    m.push_back(0);
    m.push_back(static_cast<u8>(in.ecam_bytes / MiB - 1));
    put<u32>(m, 0);
    listed.push_back(b.table("MCFG", 1, m));
  }
  Bytes waet;
  put<u32>(waet, 2);  // the PM timer needs one read only
  listed.push_back(b.table("WAET", 1, waet));
  Bytes xsdt;
  for (u32 t : listed) put<u64>(xsdt, t);
  const u32 xsdt_at = static_cast<u32>(tables.size());
  for (usize i = 0; i < listed.size(); i++) b.pointer(tables_file, tables_file, static_cast<u32>(xsdt_at + 36 + 8 * i), 8);
  b.table("XSDT", 1, xsdt);
  Bytes rsdt;
  for (u32 t : listed) put<u32>(rsdt, t);
  const u32 rsdt_at = static_cast<u32>(tables.size());
  for (usize i = 0; i < listed.size(); i++) b.pointer(tables_file, tables_file, static_cast<u32>(rsdt_at + 36 + 4 * i), 4);
  b.table("RSDT", 1, rsdt);

  Bytes& rsdp = b.out.rsdp;
  put_text(rsdp, "RSD PTR ", 8);
  rsdp.push_back(0);
  put_text(rsdp, "BOCHS ", 6);
  rsdp.push_back(2);
  put<u32>(rsdp, rsdt_at);
  put<u32>(rsdp, 36);
  put<u64>(rsdp, xsdt_at);
  put<u32>(rsdp, 0);
  b.pointer(rsdp_file, tables_file, 16, 4);
  b.pointer(rsdp_file, tables_file, 24, 8);
  b.checksum(rsdp_file, 8, 0, 20);
  b.checksum(rsdp_file, 32, 0, 36);
  return b.out;
}

}  // namespace vmm::hw
